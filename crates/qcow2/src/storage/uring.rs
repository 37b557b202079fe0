use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{FileStorage, Storage};
use crate::sys::uring::Ring;

/// Rings, so that as many threads do not wait for each other.
const RINGS: usize = 8;

/// A file reached through io_uring, one request per thread at a time. An engine with many
/// requests in flight submits them itself, to the extents that [`crate::Image::extent`] names.
pub struct UringStorage {
    file: FileStorage,
    rings: Vec<Mutex<Ring>>,
}

impl UringStorage {
    /// Takes a file that is open without O_DIRECT.
    ///
    /// # Errors
    /// Those of setting up the rings.
    pub fn from_file(file: File) -> io::Result<Self> {
        let rings = (0..RINGS)
            .map(|_| Ring::new().map(Mutex::new))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            file: FileStorage::from_file(file)?,
            rings,
        })
    }

    /// A ring that nobody uses, or else the first one.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        let free = self.rings.iter().find_map(|ring| ring.try_lock().ok());
        free.unwrap_or_else(|| self.rings[0].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Storage for UringStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
        let mut bufs = bufs;
        let mut ring = self.ring();
        while bufs.iter().any(|buf| !buf.is_empty()) {
            let count = ring.read(self.file.file(), bufs, offset)?;
            if count == 0 {
                bufs.iter_mut().for_each(|buf| buf.fill(0));
                return Ok(());
            }
            IoSliceMut::advance_slices(&mut bufs, count);
            offset += count as u64;
        }
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 || self.ring().write(self.file.file(), bufs, offset)? == total {
            return Ok(());
        }
        // A short write is rare; the plain file does the whole of it again.
        self.file.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush_by(|| self.ring().flush(self.file.file()))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.file.write_zeroes(offset, len, unmap)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }

    fn grows_with_zeroes(&self) -> bool {
        self.file.grows_with_zeroes()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.file.next_data(offset)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}
