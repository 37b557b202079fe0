//! The initial RAM disk.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::source::Source;

/// An initrd file, ready to be loaded.
#[derive(Debug)]
pub struct Initrd {
    path: PathBuf,
    source: Source,
}

impl Initrd {
    /// Opens an initrd.
    ///
    /// # Errors
    ///
    /// [`Error::Initrd`], whose source says why the file can not be used.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path).map_err(|e| Error::Initrd {
            path: path.to_owned(),
            source: Box::new(e),
        })?;
        Ok(Self {
            path: path.to_owned(),
            source,
        })
    }

    /// The file as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes, never zero.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}
