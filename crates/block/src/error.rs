//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

/// What can go wrong with a disk. Each message is one sentence that ends with the remedy, where
/// there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can not be opened.
    #[error("cannot open the disk image {path}: {source}{}", remedy(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Somebody else, or another disk of this process, uses the file in a way that does not go with
    /// this one.
    #[error(
        "the disk image {path} is in use by another process, or by another disk of this one: end \
         the other use, or open the image read-only in both"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A file that was to be qcow2 is not.
    #[error(
        "the disk image {path} is not qcow2: give its format as raw if its bytes are the disk's"
    )]
    NotQcow2 {
        /// The file.
        path: PathBuf,
    },
    /// A format was to be guessed in a chain whose files are followed.
    #[error(
        "the format of the disk image {path} must be given when backing files are followed: a \
         guest that writes a raw disk could make it name any file"
    )]
    ProbeWithBacking {
        /// The file.
        path: PathBuf,
    },
    /// An image stands on another file, and following it was not allowed.
    #[error(
        "the disk image {path} stands on {name:?}, which backing=off does not allow to open: \
         allow it with backing=on if you trust who made the image"
    )]
    BackingNotAllowed {
        /// The image.
        path: PathBuf,
        /// The name inside of it.
        name: String,
    },
    /// An image stands on a file that is not there.
    #[error(
        "the backing file {backing} of the disk image {path} can not be opened: {source}; bring \
         it back, or rebase the image"
    )]
    BackingMissing {
        /// The image.
        path: PathBuf,
        /// The file below it.
        backing: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An image does not say the format of its backing file.
    #[error(
        "the disk image {path} does not say the format of its backing file: rebase it with the \
         format given"
    )]
    BackingFormat {
        /// The image.
        path: PathBuf,
    },
    /// The backing files form a loop, or are too many.
    #[error("the chain of backing files below {path} is a loop or longer than {limit}: rebase it")]
    Depth {
        /// The first file.
        path: PathBuf,
        /// Images in the longest chain.
        limit: usize,
    },
    /// A file of the chain is encrypted, and no key was given for it.
    #[error("the disk image {path} is encrypted: give the key of it")]
    KeyNeeded {
        /// The file.
        path: PathBuf,
    },
    /// The image format's own word.
    #[error("the disk image {path} can not be used: {source}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: strata_qcow2::Error,
    },
    /// An option can not be.
    #[error("{0}")]
    Invalid(String),
    /// io_uring is not there or refuses.
    #[error("cannot {action} io_uring: {source}; the kernel must be 5.19 or later and allow it")]
    Ring {
        /// The operation, as a verb.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// What to do about a file that can not be opened.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; create it, or name another",
        io::ErrorKind::IsADirectory => "; name a file or a block device",
        io::ErrorKind::PermissionDenied => {
            "; ask its owner for access, or open it read-only if that is allowed"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; open it read-only",
        _ => "",
    }
}
