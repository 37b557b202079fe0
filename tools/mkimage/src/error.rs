//! The errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// What an operation of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Programs that do the work are not installed.
    #[error(
        "missing packages; install them: apt-get install --no-install-recommends {packages} \
         (or give --install)"
    )]
    MissingPackages {
        /// Their names, separated by spaces.
        packages: String,
    },
    /// A file could not be read, written, or the like.
    #[error("can not {action} {}: {source}", path.display())]
    File {
        /// What was tried: a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system that holds the cache or the output is full.
    #[error("no space left below {}: free some, or move the cache by XDG_CACHE_HOME", path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
    },
    /// The packages do not fit into the image.
    #[error("the packages do not fit into {mib} MiB: give a larger --size")]
    TooSmall {
        /// The size that was asked for, in MiB.
        mib: u64,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Its name.
        program: String,
        /// The end of its messages.
        output: String,
    },
    /// The archive does not offer what is needed.
    #[error("{url}: {reason}")]
    Archive {
        /// The file that was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A package can not be had.
    #[error("the archive has no package {name:?}: `apt-cache search {name}` finds similar names")]
    NoPackage {
        /// Its name.
        name: String,
    },
    /// The output is there already.
    #[error("{} exists: choose another name, or give --force to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The image could not be written as qcow2.
    #[error("can not write {} as qcow2: {source}", path.display())]
    Qcow2 {
        /// The output.
        path: PathBuf,
        /// Why not.
        source: strata_qcow2::Error,
    },
    /// A signal asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// Something that was asked for does not make sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// For `map_err`: a failed file operation.
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::File {
                action,
                path,
                source,
            },
        }
    }
}
