//! The cache: kernels, the files of level 1, and its saved states.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{env, process};

use crate::command::checked;
use crate::debian::{self, BUSYBOX};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::recipe::{self, Config, Kernel, SERIES};

/// How long the files of other versions are kept after their last use: making them anew takes less
/// than a minute.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A prepared lab, from which level 1 can be restored.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Holds all that is keyed alike: level 1's kernel, initramfs and drive, and the saved states.
    base: PathBuf,
    kernels: Vec<Kernel>,
    progress: fn(&str),
}

impl Lab {
    /// Opens the lab and prepares what is not there yet; `progress` hears of every long step.
    ///
    /// # Errors
    /// [`Error::MissingPackages`] names what to install first.
    pub fn open(progress: fn(&str)) -> Result<Self> {
        Self::prepare(progress, false)
    }

    /// Opens the lab with the newest kernels that the distribution has, and saves the usual level
    /// 1, plain and counting instructions.
    ///
    /// # Errors
    /// As [`Lab::open`].
    pub fn build(progress: fn(&str)) -> Result<Self> {
        let lab = Self::prepare(progress, true)?;
        for icount in [false, true] {
            lab.state(&Config {
                icount,
                ..Config::default()
            })?;
        }
        Ok(lab)
    }

    /// Starts a level 1 from its saved state; saves one first if there is none of this shape.
    ///
    /// # Errors
    /// [`Error::Level1`] if QEMU or the machine in it ends.
    pub fn restore(&self, config: &Config) -> Result<Machine> {
        let state = self.state(config)?;
        Machine::restore(&self.base, config, &state)
    }

    /// The directory where the lab keeps its files: `$XDG_CACHE_HOME/strata-lab`.
    pub fn cache() -> PathBuf {
        let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
        let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute());
        cache
            .map_or_else(|| home().join(".cache"), PathBuf::from)
            .join("strata-lab")
    }

    /// The kernels that level 1 has, by series.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    fn prepare(progress: fn(&str), newest: bool) -> Result<Self> {
        debian::check_packages()?;
        let cache = Self::cache();
        let dir = cache.join("kernels");
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        let _lock = lock(&cache.join("lock"), progress)?;
        let known = if newest { None } else { known_kernels(&dir) };
        let kernels = match known {
            Some(kernels) => kernels,
            None => {
                let fetch = |series| debian::fetch_kernel(series, &dir, progress);
                let kernels = SERIES.into_iter().map(fetch).collect::<Result<Vec<_>>>()?;
                remember_kernels(&dir, &kernels)?;
                kernels
            }
        };
        let busybox = fs::read(BUSYBOX).map_err(Error::file("read", BUSYBOX))?;
        let version = checked(Command::new("qemu-system-x86_64").arg("--version"))?;
        let releases: Vec<_> = kernels.iter().map(|k| k.release.as_str()).collect();
        let base = cache.join(format!(
            "base-{}",
            key(&version, &host_cpu(), &releases, &busybox)
        ));
        let lab = Self {
            base,
            kernels,
            progress,
        };
        if !lab.base.exists() {
            lab.build_base(&busybox)?;
            prune(&cache, &lab.base)?;
        }
        let used = lab.base.join("used");
        File::create(&used).map_err(Error::file("write", &used))?;
        Ok(lab)
    }

    fn build_base(&self, busybox: &[u8]) -> Result<()> {
        (self.progress)("building level 1's initramfs and drive");
        let work = self.base.with_extension("partial");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).map_err(Error::file("create", &work))?;
        let own = &self.kernels[0];
        let initramfs = work.join("level1.cpio");
        fs::write(&initramfs, recipe::initramfs(own, busybox)?)
            .map_err(Error::file("write", &initramfs))?;
        let kernel = own.dir.join("bzImage");
        fs::hard_link(&kernel, work.join("bzImage")).map_err(Error::file("link", &kernel))?;
        let drive = work.join("assets.ext4");
        recipe::build_drive(&self.kernels, busybox, &work.join("stage"), &drive)?;
        fs::rename(&work, &self.base).map_err(Error::file("rename", &work))
    }

    /// The saved state of this shape, made now if there is none.
    fn state(&self, config: &Config) -> Result<PathBuf> {
        let path = self.base.join(config.state_name());
        if path.exists() {
            return Ok(path);
        }
        let _lock = lock(&path.with_extension("lock"), self.progress)?;
        if !path.exists() {
            (self.progress)(&format!(
                "booting level 1 once to save it ({})",
                config.state_name()
            ));
            let partial = path.with_extension(process::id().to_string());
            Machine::boot_and_save(&self.base, config, &partial)?;
            fs::rename(&partial, &path).map_err(Error::file("rename", &partial))?;
        }
        Ok(path)
    }
}

/// Names all that the saved states depend on.
fn key(qemu: &str, cpu: &str, releases: &[&str], busybox: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    (env!("LAB_RECIPE"), qemu, cpu, releases, busybox).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The kind of the host's CPU: a saved level 1 has calibrated its clock by the host's TSC.
fn host_cpu() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpus.lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default()
        .to_string()
}

/// Waits for a lock that the kernel releases when its holder ends, however it ends.
fn lock(path: &Path, progress: fn(&str)) -> Result<File> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    if file.try_lock().is_err() {
        progress("waiting for another lab that is preparing the same files");
        file.lock().map_err(Error::file("lock", path))?;
    }
    Ok(file)
}

/// The kernels of the last `lab build`: asking the package lists each time would take a second.
fn known_kernels(dir: &Path) -> Option<Vec<Kernel>> {
    let list = fs::read_to_string(dir.join("list")).ok()?;
    let kernels: Vec<_> = SERIES
        .into_iter()
        .zip(list.lines())
        .map(|(series, release)| Kernel {
            series,
            release: release.to_string(),
            dir: dir.join(release),
        })
        .filter(|kernel| kernel.dir.exists() && kernel.release.starts_with(kernel.series))
        .collect();
    (kernels.len() == SERIES.len()).then_some(kernels)
}

fn remember_kernels(dir: &Path, kernels: &[Kernel]) -> Result<()> {
    let list: String = kernels.iter().map(|k| format!("{}\n", k.release)).collect();
    fs::write(dir.join("list"), list).map_err(Error::file("write", dir.join("list")))
}

/// Removes what no version of the lab has used for long.
fn prune(cache: &Path, keep: &Path) -> Result<()> {
    for entry in fs::read_dir(cache).map_err(Error::file("list", cache))? {
        let path = entry.map_err(Error::file("list", cache))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("base-") || path == keep {
            continue;
        }
        let used = fs::metadata(path.join("used")).and_then(|m| m.modified());
        let age = used
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|age| age > KEPT) {
            fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_every_input_apart() {
        let base = key("10.0", "EPYC", &["6.1.1", "6.12.2"], b"busybox");
        assert_eq!(base, key("10.0", "EPYC", &["6.1.1", "6.12.2"], b"busybox"));
        assert_ne!(base, key("7.2", "EPYC", &["6.1.1", "6.12.2"], b"busybox"));
        assert_ne!(base, key("10.0", "Xeon", &["6.1.1", "6.12.2"], b"busybox"));
        assert_ne!(base, key("10.0", "EPYC", &["6.1.1", "6.12.3"], b"busybox"));
        assert_ne!(base, key("10.0", "EPYC", &["6.1.16.12.2"], b"busybox"));
        assert_ne!(base, key("10.0", "EPYC", &["6.1.1", "6.12.2"], b"busybax"));
    }

    #[test]
    fn remembered_kernels_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(known_kernels(dir.path()).is_none());
        let kernel = |series, release: &str| Kernel {
            series,
            release: release.to_string(),
            dir: dir.path().join(release),
        };
        let kernels = [kernel("6.1", "6.1.9"), kernel("6.12", "6.12.3")];
        kernels.iter().for_each(|k| fs::create_dir(&k.dir).unwrap());
        remember_kernels(dir.path(), &kernels).unwrap();
        let known = known_kernels(dir.path()).unwrap();
        assert_eq!(known[1].dir, kernels[1].dir);
        fs::remove_dir(&kernels[1].dir).unwrap();
        assert!(known_kernels(dir.path()).is_none());
    }
}
