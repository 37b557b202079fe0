//! Disks: `path=FILE[,format=..][,readonly][,cache=..]...`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strata_block::{Cache, ErrorPolicy, Format};
use strata_memory::MemorySize;

use super::options::{self, Options, options};

/// Bytes of a serial number (virtio 1.2 §5.2.6, VIRTIO_BLK_T_GET_ID).
const MAX_SERIAL: usize = 20;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskConfig {
    /// The image file or block device.
    pub path: PathBuf,
    /// Its name in messages and commands; disk0 and so on where none is given.
    #[serde(default)]
    pub id: Option<String>,
    /// The image's format; none where nothing was said, which is raw if it does not look like qcow2.
    #[serde(default)]
    pub format: Option<Format>,
    /// Whether the guest may only read.
    #[serde(default, alias = "ro", deserialize_with = "options::value")]
    pub readonly: bool,
    /// What the host's page cache does.
    #[serde(default)]
    pub cache: Cache,
    /// How many queues, each with a thread of its own.
    #[serde(default = "options::one", deserialize_with = "options::value")]
    pub queues: u16,
    /// At most so many operations a second.
    #[serde(default, deserialize_with = "options::some")]
    pub iops: Option<u64>,
    /// At most so many bytes a second.
    #[serde(default, deserialize_with = "options::some")]
    pub bps: Option<MemorySize>,
    /// Whether the backing files that the image names may be opened.
    #[serde(default, deserialize_with = "options::value")]
    pub backing: bool,
    /// The serial number that the guest sees, at most 20 bytes; the id where none is given.
    #[serde(default)]
    pub serial: Option<String>,
    /// What becomes of a request that fails.
    #[serde(default)]
    pub on_error: ErrorPolicy,
    /// The key of an encrypted qcow2 image, and of all encrypted files that it stands on.
    #[serde(default)]
    pub encrypt: Option<EncryptConfig>,
    /// The secret that opens a LUKS file.
    #[serde(default)]
    pub key_secret: Option<String>,
}

/// How an image is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[serde(expecting = "a table with key-secret, or encrypt.key-secret=NAME")]
pub struct EncryptConfig {
    /// The kind of encryption; there is one.
    #[serde(default)]
    pub format: EncryptFormat,
    /// The secret that opens it.
    pub key_secret: String,
}

/// A kind of encryption within images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptFormat {
    /// LUKS.
    #[default]
    Luks,
}

impl Options for DiskConfig {
    const HEADS: &'static [&'static str] = &["path"];
    const WHAT: &'static str = "disk";

    fn check(&self) -> Result<(), String> {
        self.id.as_deref().map_or(Ok(()), options::check_id)?;
        if self.path.as_os_str().is_empty() {
            return Err("path is empty; name an image file or a block device".to_owned());
        }
        if !(1..=64).contains(&self.queues) {
            return Err(format!("1 to 64 queues, not {}", self.queues));
        }
        options::check_limit("iops", self.iops)?;
        options::check_limit("bps", self.bps.map(MemorySize::bytes))?;
        self.check_key()?;
        match &self.serial {
            Some(serial) if serial.len() > MAX_SERIAL || !serial.is_ascii() => Err(format!(
                "the serial number \"{serial}\" has more than 20 ASCII characters"
            )),
            _ => Ok(()),
        }
    }

    fn fill(&mut self) {
        if let (None, Some(id)) = (&self.serial, &self.id) {
            self.serial = Some(id.chars().take(MAX_SERIAL).collect());
        }
    }
}

options!(DiskConfig);

impl DiskConfig {
    /// The disk in this file, as if only its path had been said.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            id: None,
            format: None,
            readonly: false,
            cache: Cache::default(),
            queues: options::one(),
            iops: None,
            bps: None,
            backing: false,
            serial: None,
            on_error: ErrorPolicy::default(),
            encrypt: None,
            key_secret: None,
        }
    }

    /// The name of the secret that opens the disk's encrypted files.
    pub fn key(&self) -> Option<&str> {
        let encrypt = self.encrypt.as_ref().map(|encrypt| &encrypt.key_secret);
        encrypt.or(self.key_secret.as_ref()).map(String::as_str)
    }

    fn check_key(&self) -> Result<(), String> {
        let (luks, qcow2) = (Some(Format::Luks), Some(Format::Qcow2));
        let refused = if self.encrypt.is_some() && self.format != qcow2 {
            "encrypt.key-secret goes with format=qcow2; a LUKS file's key is key-secret=NAME"
        } else if self.key_secret.is_some() && self.format != luks {
            "key-secret goes with format=luks; a qcow2 image's key is encrypt.key-secret=NAME"
        } else if self.format == luks && self.key_secret.is_none() {
            "format=luks needs key-secret=NAME, the name of a --secret"
        } else {
            return Ok(());
        };
        Err(refused.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_enough() {
        assert_eq!("a.img".parse(), Ok(DiskConfig::new("a.img")));
    }

    #[test]
    fn every_option_has_its_key() {
        let text = "path=a,format=qcow2,readonly,cache=direct,queues=4,iops=100,bps=10M,backing=on,\
                    id=root,serial=S1,on-error=stop";
        let disk: DiskConfig = text.parse().unwrap();
        assert_eq!(disk.format, Some(Format::Qcow2));
        assert_eq!(disk.bps, Some(MemorySize::new(10 << 20)));
        assert_eq!((disk.iops, disk.on_error), (Some(100), ErrorPolicy::Stop));
        assert!(disk.readonly && disk.backing);
        let json = serde_json::to_value(&disk).unwrap();
        assert_eq!(serde_json::from_value::<DiskConfig>(json).unwrap(), disk);
    }

    #[test]
    fn keys_are_secrets_names() {
        for (text, json) in [
            (
                "a,format=qcow2,encrypt.format=luks,encrypt.key-secret=s",
                r#"{"path":"a","format":"qcow2","encrypt":{"format":"luks","key-secret":"s"}}"#,
            ),
            (
                "a,format=luks,key-secret=s",
                r#"{"path":"a","format":"luks","key-secret":"s"}"#,
            ),
        ] {
            let disk: DiskConfig = text.parse().unwrap();
            assert_eq!(disk.key(), Some("s"));
            assert_eq!(serde_json::from_str::<DiskConfig>(json).unwrap(), disk);
        }
        assert_eq!(DiskConfig::new("a").key(), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, needle) in [
            ("", "path"),
            ("a,format=vmdk", "`raw`, `qcow2`"),
            ("a,cache=none", "`direct`"),
            ("a,queues=0", "1 to 64"),
            ("a,queues=65", "1 to 64"),
            ("a,iops=0", "leave it out"),
            ("a,bps=fast", "number"),
            ("a,serial=012345678901234567890", "20"),
            ("a,speed=high", "there is no option `speed`"),
            ("a,format=luks", "needs key-secret"),
            ("a,key-secret=s", "goes with format=luks"),
            ("a,format=qcow2,key-secret=s", "encrypt.key-secret=NAME"),
            ("a,encrypt.key-secret=s", "goes with format=qcow2"),
            (
                "a,format=luks,encrypt.key-secret=s",
                "goes with format=qcow2",
            ),
            ("a,format=qcow2,encrypt.format=luks", "`key-secret`"),
            ("a,format=qcow2,encrypt.format=aes", "`luks`"),
            ("a,format=qcow2,encrypt=s", "encrypt.key-secret=NAME"),
            (
                "a,format=qcow2,encrypt=s,encrypt.key-secret=s",
                "said twice",
            ),
            (
                "a,format=qcow2,encrypt.key-secret=s,encrypt.key-secret=s",
                "said twice",
            ),
            (
                "a,format=qcow2,encrypt.key-secret",
                "encrypt.key-secret needs a value",
            ),
            ("a,path.x=s", "path"),
        ] {
            let refused = text.parse::<DiskConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
