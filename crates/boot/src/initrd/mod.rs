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
        if source.size() > max_size || is_plain(&source) {
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

/// Whether an initrd is one plain archive and nothing else. Only its headers are read, not the
/// files in it: to look for compression in all of it would take as long as to load it.
fn is_plain(source: &Source) -> bool {
    let read = |at: usize, buf: &mut [u8]| source.read_at("a header", at as u64, buf).ok();
    let head = |at| {
        let mut head = [0; unpack::HEAD_SIZE];
        read(at, &mut head).map(|()| head)
    };
    let Ok(size) = usize::try_from(source.size()) else {
        return false;
    };
    let Some(end) = unpack::plain_end(size, head) else {
        return false;
    };
    let mut rest = [0; unpack::MAX_BLOCK];
    let rest = rest.get_mut(..size.saturating_sub(end));
    rest.is_some_and(|rest| read(end, rest).is_some() && rest.iter().all(|&byte| byte == 0))
}

fn in_file(path: &Path) -> impl FnOnce(Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Initrd {
        path,
        source: Box::new(source),
    }
}
