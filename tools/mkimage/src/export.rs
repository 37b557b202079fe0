//! An image's files, copied to where a machine may write to them.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_qcow2::storage::FileStorage;
use strata_qcow2::{CreateOptions, OpenOptions as Qcow2Options, Storage};

use crate::error::{Error, Result};
use crate::process::Runner;
use crate::request::Image;

/// What is read at once, and the least run of zeroes that becomes a hole: a cluster of qcow2.
const BLOCK: usize = 64 << 10;

/// The format of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The disk's bytes, with holes where they are zero
    Raw,
    /// qcow2
    Qcow2,
}

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Where the files of an image were copied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// The disk, writable.
    pub disk: PathBuf,
    /// The disk's format.
    pub format: Format,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

impl Outputs {
    fn new(disk: &Path, format: Format) -> Self {
        Self {
            disk: disk.to_path_buf(),
            format,
            kernel: disk.with_extension("kernel"),
            initrd: disk.with_extension("initrd"),
        }
    }
}

pub(crate) fn export(
    image: &Image,
    disk: &Path,
    format: Format,
    replace: bool,
    runner: &Runner,
) -> Result<Outputs> {
    let outputs = Outputs::new(disk, format);
    let targets = [&outputs.kernel, &outputs.initrd, &outputs.disk];
    if targets[..2].contains(&&outputs.disk) {
        return Err(Error::Usage(format!(
            "{}: kernel and initrd go beside it under that name: choose another extension",
            disk.display()
        )));
    }
    if !replace && let Some(path) = targets.into_iter().find(|path| path.exists()) {
        return Err(Error::Exists { path: path.clone() });
    }
    runner.say(&format!("writing {}", disk.display()));
    let files = [image.kernel(), image.initrd(), image.disk()];
    let mut partials = Vec::new();
    for (index, (from, to)) in files.iter().zip(targets).enumerate() {
        let partial = Partial::new(to)?;
        match format {
            Format::Qcow2 if index == 2 => write_qcow2(from, &partial, runner)?,
            _ => write_raw(from, &partial, runner)?,
        }
        partials.push(partial);
    }
    // The disk comes last: where it is, the others are.
    partials.into_iter().try_for_each(Partial::keep)?;
    Ok(outputs)
}

/// A file under a name of its own until it is complete.
struct Partial {
    path: PathBuf,
    to: PathBuf,
    file: File,
    kept: bool,
}

impl Partial {
    fn new(to: &Path) -> Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.partial", std::process::id()));
        let path = to.with_file_name(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::file("create", &path))?;
        Ok(Self {
            path,
            to: to.to_path_buf(),
            file,
            kept: false,
        })
    }

    fn keep(mut self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.to))
            .map_err(Error::file("write", &self.to))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_raw(from: &Path, to: &Partial, runner: &Runner) -> Result<()> {
    let failed = || Error::file("write", &to.to);
    let size = blocks(from, runner, |block, offset| {
        to.file.write_all_at(block, offset).map_err(failed())
    })?;
    to.file.set_len(size).map_err(failed())
}

fn write_qcow2(from: &Path, to: &Partial, runner: &Runner) -> Result<()> {
    let failed = |source| Error::Qcow2 {
        path: to.to.clone(),
        source,
    };
    let file = to.file.try_clone().map_err(Error::file("write", &to.to))?;
    let storage = FileStorage::from_file(file).map_err(Error::file("write", &to.to))?;
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let size = fs::metadata(from).map_err(Error::file("read", from))?.len();
    let create = CreateOptions {
        size,
        ..CreateOptions::default()
    };
    create.create(&storage).map_err(failed)?;
    let options = Qcow2Options {
        writable: true,
        ..Qcow2Options::default()
    };
    let disk = strata_qcow2::Image::open(storage, options).map_err(failed)?;
    blocks(from, runner, |block, offset| {
        disk.write_at(block, offset).map_err(failed)
    })?;
    disk.close().map_err(failed)
}

/// Gives each block of a file that is not all zeroes, with its offset; returns the file's size.
fn blocks(
    from: &Path,
    runner: &Runner,
    mut write: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<u64> {
    let failed = || Error::file("read", from);
    let mut file = File::open(from).map_err(failed())?;
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        runner.check()?;
        let mut filled = 0;
        while filled < BLOCK {
            match file.read(&mut buffer[filled..]).map_err(failed())? {
                0 => break,
                more => filled += more,
            }
        }
        let block = &buffer[..filled];
        if block.iter().any(|byte| *byte != 0) {
            write(block, offset)?;
        }
        offset += filled as u64;
        if filled < BLOCK {
            return Ok(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Variant;
    use std::os::unix::fs::MetadataExt;

    fn image(dir: &Path) -> (Image, Vec<u8>) {
        let mut disk = vec![0; (8 << 20) + 512];
        disk[..5].copy_from_slice(b"first");
        disk[3 << 20..][..3].fill(7);
        *disk.last_mut().unwrap() = 1;
        fs::write(dir.join("disk.raw"), &disk).unwrap();
        fs::write(dir.join("kernel"), "k").unwrap();
        fs::write(dir.join("initrd"), "i").unwrap();
        (Image::new(dir.into(), Variant::Test), disk)
    }

    #[test]
    fn a_raw_copy_is_equal_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (image, bytes) = image(dir.path());
        let to = dir.path().join("out.raw");
        let runner = Runner::new(|_| {}, false);
        let outputs = export(&image, &to, Format::Raw, false, &runner).unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(fs::read(outputs.kernel).unwrap(), b"k");
        assert_eq!(fs::read(outputs.initrd).unwrap(), b"i");
        let again = export(&image, &to, Format::Raw, false, &runner);
        assert!(matches!(again, Err(Error::Exists { .. })));
        export(&image, &to, Format::Raw, true, &runner).unwrap();
    }

    #[test]
    fn a_qcow2_copy_is_equal() {
        let dir = tempfile::tempdir().unwrap();
        let (image, bytes) = image(dir.path());
        let to = dir.path().join("out.qcow2");
        let runner = Runner::new(|_| {}, false);
        export(&image, &to, Format::Qcow2, false, &runner).unwrap();
        let storage: Arc<dyn Storage> =
            Arc::new(FileStorage::from_file(File::open(&to).unwrap()).unwrap());
        let disk = strata_qcow2::Image::open(storage, Qcow2Options::default()).unwrap();
        let mut read = vec![0; bytes.len()];
        disk.read_at(&mut read, 0).unwrap();
        assert_eq!(disk.size(), bytes.len() as u64);
        assert!(read == bytes);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (image, _) = image(dir.path());
        fs::remove_file(image.disk()).unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let runner = Runner::new(|_| {}, false);
        let failed = export(&image, &out.join("x.raw"), Format::Raw, false, &runner);
        assert!(matches!(failed, Err(Error::File { .. })));
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
        // The kernel's name would be the disk's own.
        let taken = export(&image, &out.join("x.kernel"), Format::Raw, true, &runner);
        assert!(matches!(taken, Err(Error::Usage(_))));
    }
}
