//! Reading a configuration from a JSON or TOML file.

use std::path::{Path, PathBuf};

use super::PartialConfig;
use crate::error::Error;

/// Far more than any configuration needs; a device or a disk image named by mistake is not read.
const MAX_FILE_SIZE: u64 = 1 << 20;

impl PartialConfig {
    /// Reads the file at `path`, JSON or TOML by its ending. Relative paths in it are taken from
    /// the directory the file is in, so that a machine's directory can be moved.
    ///
    /// # Errors
    /// [`Error::File`] when it can not be read; [`Error::Config`] when what it says is not
    /// understood, naming the key, the line and what could stand there.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        let config: Result<Self, String> = match path.extension().and_then(|end| end.to_str()) {
            Some("json") => serde_json::from_str(&text).map_err(|error| error.to_string()),
            Some("toml") => toml::from_str(&text).map_err(|error| error.to_string()),
            _ => Err("the file's name must end in .json or .toml".to_owned()),
        };
        let config = config.map_err(|message| Error::Config {
            path: path.to_owned(),
            message: message.trim_end().to_owned(),
        })?;
        Ok(config.relative_to(path.parent().unwrap_or(Path::new(""))))
    }

    fn relative_to(mut self, dir: &Path) -> Self {
        let join = |path: PathBuf| dir.join(path);
        self.kernel = self.kernel.map(join);
        self.initrd = self.initrd.map(join);
        for disk in &mut self.disk {
            disk.path = dir.join(&disk.path);
        }
        for secret in &mut self.secret {
            secret.file = secret.file.take().map(join);
        }
        if let Some(files) = &mut self.cloud_init {
            files.user_data = dir.join(&files.user_data);
            files.meta_data = files.meta_data.take().map(join);
            files.network_config = files.network_config.take().map(join);
        }
        if let Some(vsock) = &mut self.vsock {
            vsock.socket = dir.join(&vsock.socket);
        }
        let ports = self.virtio_console.into_iter();
        self.virtio_console = ports.map(|port| port.map_path(join)).collect();
        self.serial = self.serial.map(|serial| serial.map_path(join));
        if let Some(qmp) = &mut self.qmp {
            qmp.unix = dir.join(&qmp.unix);
        }
        self
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::File {
        what: "configuration file",
        path: path.to_owned(),
        remedy: "name a JSON or TOML file that you may read",
        source,
    };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_FILE_SIZE {
        return Err(Error::Config {
            path: path.to_owned(),
            message: format!("{size} bytes are too many for a configuration (at most 1 MiB)"),
        });
    }
    std::fs::read_to_string(path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SerialTarget;

    fn load(name: &str, text: &str) -> Result<PartialConfig, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        PartialConfig::from_file(&path)
    }

    #[test]
    fn json_and_toml_say_the_same() {
        let json = load(
            "vm.json",
            r#"{"kernel": "/k", "cpus": 2, "memory": {"size": "1G", "hugepages": "2M"},
                "serial": "file=/tmp/out"}"#,
        )
        .unwrap();
        let toml = load(
            "vm.toml",
            "kernel = '/k'\ncpus = 2\nserial = 'file=/tmp/out'\nmemory = '1G,hugepages=2M'\n",
        )
        .unwrap();
        for config in [json, toml] {
            assert_eq!(config.cpus, Some(2));
            assert_eq!(config.serial, Some(SerialTarget::File("/tmp/out".into())));
            assert_eq!(config.memory.unwrap(), "1G,hugepages=2M".parse().unwrap());
        }
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        let text = "kernel = 'vmlinuz'\nserial = 'unix=con'\nvsock = 'cid=3,socket=v'\n\
                    virtio-console = ['port=a:unix=a']";
        std::fs::write(&path, text).unwrap();
        let config = PartialConfig::from_file(&path).unwrap();
        assert_eq!(config.kernel, Some(dir.path().join("vmlinuz")));
        assert_eq!(
            config.serial,
            Some(SerialTarget::Unix(dir.path().join("con")))
        );
        assert_eq!(config.vsock.unwrap().socket, dir.path().join("v"));
        let target = SerialTarget::Unix(dir.path().join("a"));
        assert_eq!(config.virtio_console[0].target, target);
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (name, text) in [
            ("vm.json", r#"{"kernal": "/k"}"#),
            ("vm.toml", "kernal = '/k'"),
            ("vm.toml", "[memory]\nsize = '1G'\nkernal = 1"),
        ] {
            let message = load(name, text).unwrap_err().to_string();
            assert!(
                message.contains("kernal") && message.contains(name),
                "{message}"
            );
        }
    }

    #[test]
    fn bad_values_are_errors() {
        for text in [
            "cpus = 0",
            "cpus = 255",
            "cpus = 'x'",
            "memory = '0'",
            "memory = 5.5",
            "[",
        ] {
            assert!(load("vm.toml", text).is_err(), "{text}");
        }
        assert!(load("vm.yaml", "").is_err());
    }
}
