//! How to open a disk and what it may do.

use std::path::PathBuf;

/// The format of a disk's first file. The files below it are of the format that the image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// A qcow2 image.
    Qcow2,
    /// A LUKS volume, whose payload's bytes are the disk's. It needs a key.
    Luks,
    /// Guess by the first bytes. Who writes a raw disk chooses them, so a disk that turns out raw
    /// is a word in the log, and backing files are never followed from a guess.
    Probe,
}

/// What stands between the guest's writes and the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Cache {
    /// Nothing: the host's page cache is passed by (O_DIRECT). A flush is still needed for the
    /// drive's own cache.
    Direct,
    /// The host's page cache, written out when the guest flushes.
    #[default]
    Writeback,
    /// The host's page cache, and flushes do nothing: a host that loses power loses the disk. For
    /// disks that can be made anew.
    Unsafe,
}

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DiskOptions {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The guest may not write, and the file is opened for reading only.
    pub read_only: bool,
    /// The cache mode.
    pub cache: Cache,
    /// Open the files that images name (backing files, external data files).
    pub backing: bool,
}

impl DiskOptions {
    /// A disk to write, with the default cache mode and no backing files.
    pub fn new(path: impl Into<PathBuf>, format: Format) -> Self {
        Self {
            path: path.into(),
            format,
            read_only: false,
            cache: Cache::default(),
            backing: false,
        }
    }
}

/// What happens to a request that the host could not fulfil. It is never tried again silently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum ErrorPolicy {
    /// The guest gets an I/O error.
    #[default]
    Report,
    /// The request waits, and the owner of the device hears of it and is expected to stop the
    /// guest; it is tried again when the owner says so.
    Stop,
    /// The request counts as done. What a failed read returns is undefined.
    Ignore,
}

/// Upper bounds of what a disk does; 0 is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Limits {
    /// Requests per second.
    pub iops: u64,
    /// Bytes per second, of reads, writes and zeroes that are written without data, together.
    pub bps: u64,
}
