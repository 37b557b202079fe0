//! The one error type of this crate.

use std::io;

/// What can go wrong. Offsets and lengths are in bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A storage operation failed.
    #[error("cannot {action} {length} bytes at offset {offset:#x}: {source}")]
    Io {
        /// The operation, as a verb: "read", "write", "flush", ...
        action: &'static str,
        /// Offset in the storage.
        offset: u64,
        /// Length of the request.
        length: u64,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An error of a named file.
    #[error("{name}: {source}")]
    InFile {
        /// The file, as the caller or the overlay names it.
        name: String,
        /// What went wrong with it.
        source: Box<Error>,
    },
    /// The file does not start with a qcow2 header.
    #[error("Image is not in qcow2 format")]
    NotQcow2,
    /// The header names a version other than 2 and 3.
    #[error("Unsupported qcow2 version {0}")]
    UnsupportedVersion(u32),
    /// Unknown incompatible features; the names are the image's own where it has some.
    #[error("Unsupported qcow2 feature(s): {0}")]
    UnknownFeatures(String),
    /// A known part of the format that this crate refuses.
    #[error("{0}")]
    Unsupported(String),
    /// A structure of the image breaks the format's rules.
    #[error("{structure} at offset {offset:#x}: {reason}")]
    Malformed {
        /// The structure, in the specification's words.
        structure: &'static str,
        /// Its offset in the image file.
        offset: u64,
        /// The rule that it breaks.
        reason: String,
    },
    /// A number in the image or in a request exceeds a limit of the format.
    #[error("{what} too large: {value} (at most {limit})")]
    TooLarge {
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// A write was about to hit metadata; the image is now marked corrupt.
    #[error(
        "Preventing invalid write on metadata (overlaps with {structure}) \
         at offset {offset:#x}, {length} bytes"
    )]
    Overlap {
        /// The structure that would have been overwritten.
        structure: &'static str,
        /// Offset of the refused write in the image file.
        offset: u64,
        /// Length of the refused write.
        length: u64,
    },
    /// The refcounts call the header's cluster free; the image is now marked corrupt.
    #[error("Preventing invalid allocation of {what} at offset 0")]
    InvalidAllocation {
        /// What would have gone there.
        what: &'static str,
    },
    /// The image carries the corrupt mark and may only be read or repaired.
    #[error("Image is corrupt; cannot be opened read/write")]
    Corrupt,
    /// The handle refused work after an error that left its caches in doubt.
    #[error("the image handle is broken by an earlier error; reopen the image")]
    Broken,
    /// The image was opened read-only.
    #[error("the image is read-only")]
    ReadOnly,
    /// A request lies outside of the disk.
    #[error("request of {length} bytes at offset {offset:#x} exceeds the disk of {size} bytes")]
    OutOfRange {
        /// Guest offset.
        offset: u64,
        /// Length of the request.
        length: u64,
        /// The disk's size.
        size: u64,
    },
    /// A named or numbered object is absent.
    #[error("{what} '{name}' not found")]
    NotFound {
        /// The kind of object: "snapshot", "bitmap", ...
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An object of this name is there already.
    #[error("{what} '{name}' already exists")]
    Exists {
        /// The kind of object.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An argument or a combination of arguments makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A compressed cluster does not decompress.
    #[error("compressed cluster at offset {offset:#x} of {length} bytes: {reason}")]
    Decompress {
        /// Offset of the compressed data in the image file.
        offset: u64,
        /// Its length.
        length: u64,
        /// Why it fails.
        reason: String,
    },
    /// An encrypted image was opened without its key, or the key is wrong.
    #[error("{0}")]
    Encryption(String),
    /// A backing or data file is named by the image but the caller does not allow to open it.
    #[error("the image names the file '{0}', and the caller does not allow to open it")]
    NotAllowed(String),
}

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn malformed(
        structure: &'static str,
        offset: u64,
        reason: impl Into<String>,
    ) -> Self {
        Error::Malformed {
            structure,
            offset,
            reason: reason.into(),
        }
    }

    /// Names the file that the error is about.
    #[must_use]
    pub fn in_file(self, name: impl Into<String>) -> Self {
        match self {
            Error::InFile { .. } => self,
            source => Error::InFile {
                name: name.into(),
                source: Box::new(source),
            },
        }
    }

    /// The operating system's error below this one, if it was one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::InFile { source, .. } => source.io(),
            _ => None,
        }
    }
}

/// Adds what was attempted to an I/O error.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, offset: u64, length: u64) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, offset: u64, length: u64) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            offset,
            length,
            source,
        })
    }
}
