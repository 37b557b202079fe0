//! Where a kernel's or an initrd's bytes come from.

use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};

use crate::error::{Error, Result};

/// Bytes that can be read at an offset and placed into guest memory.
#[derive(Debug)]
pub(crate) enum Source {
    File { file: File, meta: Metadata },
    Memory(Vec<u8>),
}

impl Source {
    /// Opens a regular, non-empty file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // To open a pipe must not mean to wait for its other end, only to refuse it afterwards.
        let mut options = File::options();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Io {
                what: "open it",
                source,
            },
        })?;
        Self::from_file(file)
    }

    /// Takes an open file, which must be regular and not empty.
    pub(crate) fn from_file(file: File) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Error::Io {
            what: "read its metadata",
            source: e,
        })?;
        match meta.file_type() {
            t if t.is_dir() => Err(Error::Directory),
            t if !t.is_file() => Err(Error::NotRegular),
            _ if meta.len() == 0 => Err(Error::Empty),
            _ => Ok(Self::File { file, meta }),
        }
    }

    /// The metadata of the file behind it, as they were when it was opened.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::File { meta, .. } => Some(meta),
            Self::Memory(_) => None,
        }
    }

    /// Size in bytes, as it was when the file was opened.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File { meta, .. } => meta.len(),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `buf` from `offset`; `what` names the part in [`Error::Truncated`].
    pub(crate) fn read_at(&self, what: &'static str, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(what, offset, buf.len() as u64)?;
        match self {
            Self::File { file, .. } => file.read_exact_at(buf, offset).map_err(read_failed),
            Self::Memory(bytes) => {
                // In range by the check above, so both conversions hold.
                let start = offset as usize;
                buf.copy_from_slice(&bytes[start..start + buf.len()]);
                Ok(())
            }
        }
    }

    /// Reads `len` bytes from `offset` into a fresh vector of at most `max` bytes.
    pub(crate) fn read_vec(
        &self,
        what: &'static str,
        offset: u64,
        len: u64,
        max: u64,
    ) -> Result<Vec<u8>> {
        if len > max {
            return Err(Error::OverLimit {
                what,
                value: len,
                max,
            });
        }
        self.check_range(what, offset, len)?;
        let mut buf = vec![0; len as usize];
        self.read_at(what, offset, &mut buf)?;
        Ok(buf)
    }

    /// The first `max` bytes, or all of a shorter source.
    pub(crate) fn head(&self, max: usize) -> Result<Vec<u8>> {
        let len = self.size().min(max as u64);
        self.read_vec("its head", 0, len, max as u64)
    }

    /// Refuses a range that does not lie within the source.
    pub(crate) fn check_range(&self, what: &'static str, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            end => Err(Error::Truncated {
                what,
                end: end.unwrap_or(u64::MAX),
                size: self.size(),
            }),
        }
    }

    /// Places `len` bytes from `offset` at the guest-physical `addr`.
    ///
    /// This is the loading strategy: one `read` straight into guest memory, so that the kernel
    /// copies from its page cache and no page of the file is ever mapped. A file that shrinks
    /// meanwhile is an error here; under a mapping it would be SIGBUS.
    pub(crate) fn load<M: GuestMemoryBackend>(
        &self,
        what: &'static str,
        offset: u64,
        len: u64,
        mem: &M,
        addr: u64,
    ) -> Result<()> {
        self.check_range(what, offset, len)?;
        let len = len as usize;
        match self {
            Self::File { file, .. } => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset)).map_err(read_failed)?;
                mem.read_exact_volatile_from(GuestAddress(addr), &mut file, len)
            }
            Self::Memory(bytes) => mem.write_slice(
                &bytes[offset as usize..offset as usize + len],
                GuestAddress(addr),
            ),
        }
        .map_err(|source| Error::GuestMemory { what, addr, source })
    }
}

fn read_failed(source: io::Error) -> Error {
    Error::Io {
        what: "read it",
        source,
    }
}
