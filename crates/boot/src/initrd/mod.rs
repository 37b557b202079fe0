//! The initial RAM disk.

mod unpack;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Form, Identity, Warning};
use crate::error::{Error, Result};
use crate::source::Source;

/// An initrd file, ready to be loaded.
#[derive(Debug)]
pub struct Initrd {
    path: PathBuf,
    source: Source,
    warning: Option<Warning>,
}

impl Initrd {
    /// Opens an initrd.
    ///
    /// # Errors
    ///
    /// [`Error::Initrd`], whose source says why the file can not be used.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path).map_err(in_file(path))?;
        Ok(Self::new(path, source))
    }

    /// Opens an initrd in the form that a guest starts fastest with: without its compression,
    /// where that is gzip or zstd and at most `max_size` bytes remain. Any other is opened as it
    /// is.
    ///
    /// With a `cache`, that form is made once for each file and found again by the file's
    /// identity. A cache that does not work costs time and is an [`Initrd::warning`], not an
    /// error.
    ///
    /// # Errors
    ///
    /// As [`Initrd::open`].
    pub fn open_unpacked(path: &Path, cache: Option<&Cache>, max_size: u64) -> Result<Self> {
        Self::unpacked(path, cache, max_size).map_err(in_file(path))
    }

    fn unpacked(path: &Path, cache: Option<&Cache>, max_size: u64) -> Result<Self> {
        let source = Source::open(path)?;
        let identity = source.metadata().map(Identity::of);
        let place = cache.zip(identity.as_ref());
        if let Some(found) = place.and_then(|(cache, file)| cache.find(Form::Initrd, file)) {
            let fits = found.size() <= max_size;
            return Ok(Self::new(path, if fits { found } else { source }));
        }
        if source.size() > max_size {
            return Ok(Self::new(path, source));
        }
        let bytes = source.read_vec("the file", 0, source.size(), max_size)?;
        let limit = usize::try_from(max_size).unwrap_or(usize::MAX);
        let Some(plain) = unpack::unpack(&bytes, limit) else {
            return Ok(Self::new(path, source));
        };
        let warning = place.and_then(|(cache, file)| {
            cache
                .publish(Form::Initrd, file, &Sha256::digest(&bytes).into(), &plain)
                .err()
        });
        Ok(Self {
            warning,
            ..Self::new(path, Source::Memory(plain))
        })
    }

    fn new(path: &Path, source: Source) -> Self {
        Self {
            path: path.to_owned(),
            source,
            warning: None,
        }
    }

    /// Why the cache could not be used, if it could not.
    pub fn warning(&self) -> Option<&Warning> {
        self.warning.as_ref()
    }

    /// The file as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes of what is loaded, never zero.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

fn in_file(path: &Path) -> impl FnOnce(Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Initrd {
        path,
        source: Box::new(source),
    }
}
