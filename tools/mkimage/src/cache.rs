//! The cache of finished images.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::archive::{self, State};
use crate::build;
use crate::error::{Error, Result};
use crate::export::{self, Format, Outputs};
use crate::host;
use crate::key::Key;
use crate::process::Runner;
use crate::request::{Image, Request};

/// How long an image is kept after its last use.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// Begins the name of the directory of an image that is being built.
const WORK: &str = "partial-";

/// Begins the name of a file that says which image was built last for a request.
const MEMO: &str = "latest-";

/// Whether the archive is asked for newer packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Take what was built before for the same request, without a look at the archive.
    Cached,
    /// Build anew if the archive has changed.
    Newest,
}

/// A directory of finished images, one directory each:
/// `SUITE-VARIANT-KEY/{disk.raw,kernel,initrd}`, where KEY is a digest of the request, of this
/// program's recipe and of the archive's state. They appear complete or not at all.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
    runner: Runner,
}

impl Cache {
    /// The user's: `$XDG_CACHE_HOME/strata-mkimage`, or `~/.cache/strata-mkimage`.
    pub fn of_user(runner: Runner) -> Self {
        let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()));
        let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute());
        let cache = cache.map_or_else(|| home().join(".cache"), PathBuf::from);
        Self::at(cache.join("strata-mkimage"), runner)
    }

    /// One in this directory, which is made when it is needed.
    pub fn at(dir: PathBuf, runner: Runner) -> Self {
        Self { dir, runner }
    }

    /// Finds the image, or builds it.
    ///
    /// # Errors
    /// [`Error::MissingPackages`], [`Error::NoPackage`], [`Error::TooSmall`], [`Error::NoSpace`],
    /// [`Error::Archive`] and [`Error::Interrupted`] say what to do; others are the host's.
    pub fn image(&self, request: &Request, freshness: Freshness) -> Result<Image> {
        fs::create_dir_all(&self.dir).map_err(Error::file("create", &self.dir))?;
        let memo = self
            .dir
            .join(format!("{MEMO}{}", key(request, None).short()));
        let known = || match freshness {
            Freshness::Cached => self.remembered(&memo),
            Freshness::Newest => None,
        };
        // A complete image needs no lock: only long disuse removes it.
        if let Some(dir) = known() {
            return self.used(Image::new(dir, request.variant()));
        }
        let _lock = self.lock()?;
        // Another may have built it meanwhile.
        if let Some(dir) = known() {
            return self.used(Image::new(dir, request.variant()));
        }
        host::check_packages()?;
        let work = Work::new(&self.dir)?;
        let state = archive::state(request, &work.0, &self.runner)?;
        let key = key(request, Some(&state));
        let name = format!(
            "{}-{}-{}",
            request.suite().name(),
            request.variant().name(),
            key.short()
        );
        let dir = self.dir.join(&name);
        if !dir.exists() {
            build::build(request, &key, &state, &work.0, &self.runner)?;
            protect(&work.0)?;
            fs::rename(&work.0, &dir).map_err(Error::file("rename", &work.0))?;
        }
        let partial = self.dir.join("memo.partial");
        fs::write(&partial, &name)
            .and_then(|()| fs::rename(&partial, &memo))
            .map_err(Error::file("write", &memo))?;
        let image = self.used(Image::new(dir, request.variant()))?;
        self.prune();
        Ok(image)
    }

    /// Copies an image's files to where a machine may write to them: the disk to `disk`, the
    /// others beside it. They appear complete or not at all.
    ///
    /// # Errors
    /// [`Error::Exists`] unless `replace`, [`Error::NoSpace`], [`Error::Interrupted`].
    pub fn export(
        &self,
        image: &Image,
        disk: &Path,
        format: Format,
        replace: bool,
    ) -> Result<Outputs> {
        export::export(image, disk, format, replace, &self.runner)
    }

    /// Waits for a lock that the kernel releases when its holder ends, however it ends.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        if file.try_lock().is_err() {
            self.runner
                .say("waiting for another that is building an image");
            while file.try_lock().is_err() {
                self.runner.check()?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(file)
    }

    /// The image that was built last for the same request.
    fn remembered(&self, memo: &Path) -> Option<PathBuf> {
        let name = fs::read_to_string(memo).ok()?;
        let dir = self.dir.join(name.trim());
        let complete = ["disk.raw", "kernel", "initrd"]
            .iter()
            .all(|f| dir.join(f).is_file());
        complete.then_some(dir)
    }

    fn used(&self, image: Image) -> Result<Image> {
        let path = image.dir().join("used");
        File::create(&path).map_err(Error::file("write", &path))?;
        Ok(image)
    }

    /// Removes what was not used for long, and what remembers it. What can not be removed now is
    /// left for later.
    fn prune(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_memo = entry.file_name().to_string_lossy().starts_with(MEMO);
            if is_memo && self.remembered(&path).is_none() {
                let _ = fs::remove_file(&path);
            }
            let used = fs::metadata(path.join("used")).and_then(|m| m.modified());
            let age = used
                .ok()
                .and_then(|t| SystemTime::now().duration_since(t).ok());
            if age.is_some_and(|age| age > KEPT) {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// The key of a request, or of the image that the archive's state makes of it.
fn key(request: &Request, state: Option<&State>) -> Key {
    let size = request.size().to_string();
    let words = [
        request.suite().name(),
        request.variant().name(),
        &size,
        request.mirror().unwrap_or_default(),
    ];
    let indices = state.iter().flat_map(|state| state.indices.iter());
    Key::new(
        words
            .into_iter()
            .chain(request.packages())
            .chain(indices.map(String::as_str)),
    )
}

/// Nobody writes to what others start from by accident.
fn protect(dir: &Path) -> Result<()> {
    for name in ["disk.raw", "kernel", "initrd"] {
        let path = dir.join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o444))
            .map_err(Error::file("protect", &path))?;
    }
    Ok(())
}

/// The directory of a build, which goes with it. Its name is this process's own: programs that a
/// killed process has left may still write to theirs.
struct Work(PathBuf);

impl Work {
    /// Makes it in `cache`, whose lock is held, and removes those of processes that were killed.
    fn new(cache: &Path) -> Result<Self> {
        for entry in fs::read_dir(cache).map_err(Error::file("list", cache))? {
            let entry = entry.map_err(Error::file("list", cache))?;
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                // Who still writes there may win; then the next one removes it.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = cache.join(format!("{WORK}{}", std::process::id()));
        fs::create_dir(&dir).map_err(Error::file("create", &dir))?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // It is gone after a success.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Suite, Variant};

    fn request() -> Request {
        Request::new(Suite::Bookworm, Variant::Test)
    }

    #[test]
    fn the_key_tells_every_input_apart() {
        let state = State {
            indices: vec!["a".into()],
            epoch: 1,
        };
        let other = State {
            indices: vec!["b".into()],
            epoch: 1,
        };
        let keys = [
            key(&request(), None),
            key(&request(), Some(&state)),
            key(&request(), Some(&other)),
            key(&Request::new(Suite::Trixie, Variant::Test), None),
            key(&Request::new(Suite::Bookworm, Variant::Standard), None),
            key(&request().with_size(64 << 20).unwrap(), None),
            key(&request().with_packages(["zstd"]).unwrap(), None),
            key(&request().with_mirror("file:/x").unwrap(), None),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one), "{index}");
        }
        assert_eq!(keys[0], key(&request(), None));
    }

    #[test]
    fn an_image_is_remembered_only_while_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().into(), Runner::new(|_| {}, false));
        let memo = dir.path().join("latest-x");
        assert_eq!(cache.remembered(&memo), None);
        fs::write(&memo, "image").unwrap();
        let image = dir.path().join("image");
        fs::create_dir(&image).unwrap();
        for name in ["disk.raw", "kernel", "initrd"] {
            assert_eq!(cache.remembered(&memo), None);
            fs::write(image.join(name), "").unwrap();
        }
        assert_eq!(cache.remembered(&memo), Some(image));
    }

    #[test]
    fn a_finished_image_does_not_wait_for_a_build() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().into(), Runner::new(|_| {}, false));
        let image = dir.path().join("image");
        fs::create_dir(&image).unwrap();
        for name in ["disk.raw", "kernel", "initrd"] {
            fs::write(image.join(name), "").unwrap();
        }
        let memo = format!("{MEMO}{}", key(&request(), None).short());
        fs::write(dir.path().join(memo), "image").unwrap();
        let _lock = cache.lock().unwrap();
        let found = cache.image(&request(), Freshness::Cached).unwrap();
        assert_eq!(found.dir(), image);
    }

    #[test]
    fn old_images_go_and_strangers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().into(), Runner::new(|_| {}, false));
        for name in ["old", "new", "stranger"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let old = File::create(dir.path().join("old/used")).unwrap();
        old.set_modified(SystemTime::now() - KEPT - Duration::from_secs(60))
            .unwrap();
        File::create(dir.path().join("new/used")).unwrap();
        fs::write(dir.path().join("latest-1"), "gone").unwrap();
        cache.prune();
        assert!(!dir.path().join("latest-1").exists());
        assert!(!dir.path().join("old").exists());
        assert!(dir.path().join("new").exists() && dir.path().join("stranger").exists());
    }

    #[test]
    fn a_build_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("partial-1");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("tree.tar"), "by one that was killed").unwrap();
        let guard = Work::new(dir.path()).unwrap();
        assert!(!left.exists());
        let work = guard.0.clone();
        fs::write(work.join("tree.tar"), "x").unwrap();
        drop(guard);
        assert!(!work.exists());
    }
}
