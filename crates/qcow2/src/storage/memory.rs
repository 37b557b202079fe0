use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{PoisonError, RwLock};

use super::Storage;

/// A storage in a growing buffer.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RwLock::new(bytes),
        }
    }

    /// A copy of what it holds.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A position as an index; memory can not hold more.
fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl Storage for MemoryStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let mut at = index(offset)?;
        for buf in bufs {
            let there = bytes.get(at..).unwrap_or_default();
            let count = there.len().min(buf.len());
            buf[..count].copy_from_slice(&there[..count]);
            buf[count..].fill(0);
            at = at
                .checked_add(buf.len())
                .ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let mut at = index(offset)?;
        for buf in bufs {
            let end = at
                .checked_add(buf.len())
                .ok_or(io::ErrorKind::InvalidInput)?;
            if bytes.len() < end {
                let more = end - bytes.len();
                bytes
                    .try_reserve(more)
                    .map_err(|_| io::ErrorKind::StorageFull)?;
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(buf);
            at = end;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = index(len)?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let more = len.saturating_sub(bytes.len());
        bytes
            .try_reserve(more)
            .map_err(|_| io::ErrorKind::StorageFull)?;
        bytes.resize(len, 0);
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
