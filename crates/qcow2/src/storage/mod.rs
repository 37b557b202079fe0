//! Where the bytes of an image lie.

mod direct;
mod encrypted;
mod file;
mod flushes;
mod memory;
#[cfg(feature = "io-uring")]
mod uring;

use std::io::{self, IoSlice, IoSliceMut};

pub use encrypted::EncryptedStorage;
pub use file::{FileOptions, FileStorage};
pub use memory::MemoryStorage;
#[cfg(feature = "io-uring")]
pub use uring::UringStorage;

use crate::error::{IoContext, Result};

/// Positional access to the bytes of one file, device or buffer. Offsets and lengths are in bytes.
///
/// Every method may be called from many threads at once. Requests that overlap in time and space
/// have no order among each other.
#[expect(
    clippy::len_without_is_empty,
    reason = "an empty storage is nothing special"
)]
pub trait Storage: Send + Sync {
    /// Fills all of `bufs` from `offset` on. What lies past the end reads as zeroes.
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()>;

    /// Writes all of `bufs` from `offset` on; the storage grows as needed.
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes everything written before this call durable. Where it is not known after a failure
    /// what is lost, such as in a kernel's page cache, none succeeds any more.
    fn flush(&self) -> io::Result<()>;

    /// Size.
    fn len(&self) -> io::Result<u64>;

    /// Grows (with zeroes) or shrinks.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives the range back to the host. What it reads as afterwards is undefined; doing nothing
    /// is allowed.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the range read as zeroes; `unmap` allows to give its space back to the host.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let _ = unmap;
        write_zero_bytes(self, offset, len)
    }

    /// Reserves space for the range without changing what it reads as.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        if self.len()? < end {
            self.set_len(end)
        } else {
            Ok(())
        }
    }

    /// Whether bytes past the end read as zeroes once the storage grows over them: true for
    /// files, false for devices.
    fn grows_with_zeroes(&self) -> bool {
        true
    }

    /// The number to which offsets, lengths and buffer addresses are best aligned.
    fn alignment(&self) -> usize {
        1
    }

    /// The next range at or after `offset` that may hold anything but zeroes, as (start, end).
    /// None: all that follows are holes.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let len = self.len()?;
        Ok((offset < len).then_some((offset, len)))
    }

    /// The file descriptor to which an engine may submit this storage's reads and writes itself.
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Space taken on the host.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}

impl dyn Storage + '_ {
    /// Fills `buf` from `offset` on; see [`Storage::read_vectored_at`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let length = buf.len() as u64;
        self.read_vectored_at(&mut [IoSliceMut::new(buf)], offset)
            .context("read", offset, length)
    }

    /// Writes all of `buf` from `offset` on; see [`Storage::write_vectored_at`].
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write_vectored_at(&[IoSlice::new(buf)], offset)
            .context("write", offset, buf.len() as u64)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.flush().context("flush", 0, 0)
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.len().context("get the length of", 0, 0)
    }
}

/// Writes zero bytes, for storages that have no quicker way.
pub(crate) fn write_zero_bytes<S: Storage + ?Sized>(
    storage: &S,
    mut offset: u64,
    mut len: u64,
) -> io::Result<()> {
    const STEP: u64 = 64 << 10;
    let zeroes = vec![0; len.min(STEP) as usize];
    while len > 0 {
        let step = len.min(STEP);
        storage.write_vectored_at(&[IoSlice::new(&zeroes[..step as usize])], offset)?;
        offset += step;
        len -= step;
    }
    Ok(())
}
