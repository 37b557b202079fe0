//! How a disk is opened, apart from its own options.

use crate::report::{Failure, Outcome};

/// A cache mode of `-t` and `-T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cache {
    /// O_DIRECT.
    pub direct: bool,
    /// Flushes are left out.
    pub no_flush: bool,
    /// A flush follows every write.
    pub writethrough: bool,
}

impl Cache {
    /// `writeback`: the host's page cache, flushed when asked.
    pub const WRITEBACK: Cache = Cache {
        direct: false,
        no_flush: false,
        writethrough: false,
    };
    /// `writethrough`.
    pub const WRITETHROUGH: Cache = Cache {
        writethrough: true,
        ..Self::WRITEBACK
    };
    /// `none`.
    pub const NONE: Cache = Cache {
        direct: true,
        ..Self::WRITEBACK
    };

    /// The mode of this name; `complaint` says what is wrong otherwise.
    ///
    /// # Errors
    /// `complaint` and the name.
    pub fn parse(name: &str, complaint: &str) -> Outcome<Self> {
        match name {
            "off" | "none" => Ok(Self::NONE),
            "directsync" => Ok(Cache {
                direct: true,
                ..Self::WRITETHROUGH
            }),
            "writeback" => Ok(Self::WRITEBACK),
            "unsafe" => Ok(Cache {
                no_flush: true,
                ..Self::WRITEBACK
            }),
            "writethrough" => Ok(Self::WRITETHROUGH),
            _ => Err(Failure::new(format!("{complaint}: {name}"))),
        }
    }
}

/// How to open a disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// For writing too.
    pub write: bool,
    /// Without the backing chain.
    pub no_backing: bool,
    /// For `check`: dirty and corrupt images as they are.
    pub check: bool,
    /// Only metadata will be looked at; no key is needed.
    pub no_io: bool,
    /// Other writers are accepted.
    pub force_share: bool,
    /// Discards reach the host.
    pub unmap: bool,
    /// The image this many levels below the top is opened for writing too.
    pub commit_to: Option<usize>,
    /// Writes go to a temporary overlay.
    pub temporary: bool,
    /// The page cache and flushes.
    pub cache: Cache,
}

impl Flags {
    /// For reading.
    pub fn read() -> Self {
        Self::default()
    }

    /// For writing.
    pub fn write() -> Self {
        Self {
            write: true,
            ..Self::default()
        }
    }
}
