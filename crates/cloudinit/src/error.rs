//! The one error type of the crate.

use std::io;

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is larger than [`MAX_FILE`](crate::MAX_FILE).
    #[error("{name} has {size} bytes; a seed takes at most {limit}")]
    TooLarge {
        /// Which file: its name on the disk.
        name: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A host name that RFC 1123 does not allow.
    #[error(
        "{0:?} is no host name: those are labels of 1 to 63 letters, digits and inner hyphens, \
         joined by dots, 253 characters at most"
    )]
    Hostname(String),
    /// The image could not be written.
    #[error("writing the seed: {0}")]
    Write(#[source] io::Error),
    /// There is no memory file to hold the image.
    #[error("placing the seed into memory: {0}")]
    Memory(#[source] io::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
