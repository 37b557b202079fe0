//! A storage of zeroes that forgets what is written.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};

use strata_qcow2::Storage;

/// The drivers `null-co` and `null-aio`.
pub(super) struct NullStorage(AtomicU64);

impl NullStorage {
    /// A storage of `len` bytes.
    pub(super) fn new(len: u64) -> Self {
        Self(AtomicU64::new(len))
    }
}

impl Storage for NullStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], _offset: u64) -> io::Result<()> {
        bufs.iter_mut().for_each(|buf| buf.fill(0));
        Ok(())
    }

    fn write_vectored_at(&self, _bufs: &[IoSlice<'_>], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::Relaxed))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
