//! Kernels in their dense form and initrds without their compression, kept between runs.
//!
//! A cache is a directory. `<sha256 of the kernel file>.elf` is a dense kernel, and
//! `<sha256 of the initrd file>.cpio` a plain initrd. `<identity>.ref` leads a file to its form
//! without reading it: its name is the file's device, inode, size and times, its content the
//! digest and the same of the form's file. Any change of either file changes its ctime, and with
//! that the way is lost and made anew. Files appear under their name only when they are whole.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::dense::{self, Sha256Digest};
use crate::kernel::elf::Elf;
use crate::source::Source;

/// Kernels and initrds that are kept. A kernel takes about 30 MB.
const KEEP: usize = 16;
/// A reference is a digest and an identity.
const MAX_REF_SIZE: u64 = 512;
/// A dense kernel is smaller than the largest ELF kernel that is accepted.
const MAX_DENSE_SIZE: u64 = 513 << 20;

/// What a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A dense kernel.
    Kernel,
    /// A plain initrd.
    Initrd,
}

impl Form {
    fn file_name(self, digest: &str) -> String {
        match self {
            Self::Kernel => format!("{digest}.elf"),
            Self::Initrd => format!("{digest}.cpio"),
        }
    }
}

/// A directory of kernels and initrds that are ready to be loaded.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// Why a kernel or an initrd could not be kept in the cache: it will have to be unpacked again.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep what was unpacked in {}", dir.display())]
pub struct Warning {
    /// The cache's directory.
    pub dir: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl Cache {
    /// A cache in `dir`, which is created when it is first written to.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The user's cache: `$XDG_CACHE_HOME/strata/kernels` or `~/.cache/strata/kernels`; `None`
    /// when neither variable is an absolute path.
    pub fn of_user() -> Option<Self> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self::new(base.join("strata/kernels")))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The form of a file, by the file's identity alone.
    pub(crate) fn find(&self, form: Form, file: &Identity) -> Option<Source> {
        let reference = self.open(&file.reference())?;
        let text = reference
            .read_vec("", 0, reference.size(), MAX_REF_SIZE)
            .ok()?;
        let (digest, identity) = str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
        if !is_digest(digest) {
            return None;
        }
        let found = self.open(&form.file_name(digest))?;
        (Identity::of(found.metadata()?).0 == identity).then_some(found)
    }

    /// The dense form of a kernel file, by its content; it is read and verified, and from then on
    /// found by the file's identity.
    pub(crate) fn find_content(&self, kernel: &Identity, digest: &Sha256Digest) -> Option<Source> {
        let dense = self.open(&Form::Kernel.file_name(&hex(digest)))?;
        let mark = Elf::parse(&dense)
            .ok()?
            .mark
            .filter(|mark| mark.source == *digest)?;
        let bytes = dense.read_vec("", 0, dense.size(), MAX_DENSE_SIZE).ok()?;
        if !dense::verify(bytes, &mark) {
            return None;
        }
        // Without the reference the next run verifies again, and no more.
        let _ = self.refer(kernel, digest, dense.metadata()?);
        Some(dense)
    }

    /// Keeps `bytes` as the form of `file`, whose content has `digest`.
    pub(crate) fn publish(
        &self,
        form: Form,
        file: &Identity,
        digest: &Sha256Digest,
        bytes: &[u8],
    ) -> Result<(), Warning> {
        self.try_publish(form, file, digest, bytes)
            .map_err(|source| Warning {
                dir: self.dir.clone(),
                source,
            })
    }

    fn try_publish(
        &self,
        form: Form,
        file: &Identity,
        digest: &Sha256Digest,
        bytes: &[u8],
    ) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        if !is_private(&fs::metadata(&self.dir)?) {
            let message = "others may write to it; take that away by chmod go-w";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        self.prune();
        let written = self.write(&form.file_name(&hex(digest)), bytes)?;
        self.refer(file, digest, &written.metadata()?)
    }

    fn refer(&self, file: &Identity, digest: &Sha256Digest, form: &Metadata) -> io::Result<()> {
        let text = format!("{} {}\n", hex(digest), Identity::of(form).0);
        self.write(&file.reference(), text.as_bytes()).map(drop)
    }

    /// Writes a file that has its name only once it is whole and on disk.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{}-{count}.tmp", std::process::id()));
        // Left over by a process that had this number before.
        let _ = fs::remove_file(&temporary);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, self.dir.join(name)));
        if let Err(e) = written {
            let _ = fs::remove_file(&temporary);
            return Err(e);
        }
        Ok(file)
    }

    /// Opens a file of the cache that nobody else can have written.
    fn open(&self, name: &str) -> Option<Source> {
        let path = self.dir.join(name);
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .ok()?;
        let trusted =
            is_private(&file.metadata().ok()?) && is_private(&fs::metadata(&self.dir).ok()?);
        trusted.then(|| Source::from_file(file).ok()).flatten()
    }

    /// Makes room for one more kernel or initrd: the oldest go, with every reference and half-written file
    /// that is older than those that stay. What can not be removed stays.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let files = entries.flatten().filter_map(|entry| {
            let kind = Kind::of(&entry.path())?;
            Some((entry.metadata().ok()?.modified().ok()?, kind, entry.path()))
        });
        let mut files: Vec<_> = files.collect();
        files.sort_unstable_by_key(|&(modified, ..)| Reverse(modified));
        let mut forms = 0;
        for (_, kind, path) in files {
            forms += usize::from(kind == Kind::Form);
            if forms >= KEEP {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The files that a cache writes, and nothing else that may lie beside them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Form,
    Other,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_str()?;
        let in_set = |b: u8| b.is_ascii_hexdigit() || matches!(b, b'-' | b'.');
        match path.extension()?.to_str()? {
            "elf" | "cpio" if is_digest(stem) => Some(Self::Form),
            "ref" | "tmp" if stem.bytes().all(in_set) => Some(Self::Other),
            _ => None,
        }
    }
}

/// What changes whenever a file's content does: device, inode, size and times.
pub(crate) struct Identity(String);

impl Identity {
    /// Must be taken before the content is read, lest a change in between go unseen.
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self(format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        ))
    }

    fn reference(&self) -> String {
        format!("{}.ref", self.0)
    }
}

/// Whether only the owner can write.
fn is_private(meta: &Metadata) -> bool {
    meta.mode() & 0o022 == 0
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hex(digest: &Sha256Digest) -> String {
    digest
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
