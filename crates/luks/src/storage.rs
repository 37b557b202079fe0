//! Where the header area lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

/// The header area of a volume: offset 0 is the first byte of the LUKS header.
///
/// It is used while a volume is created, opened or its key slots change; payload I/O is the
/// caller's.
pub trait HeaderStorage {
    /// Fills `buf` from byte `offset`; a shorter area is an error.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at byte `offset`, extending the area if needed.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Returns when what was written before is on stable storage.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn flush(&self) -> io::Result<()>;
}

impl HeaderStorage for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A header area in memory, for tests and for headers that are stored some other way.
#[derive(Debug, Default)]
pub struct MemoryHeader(RwLock<Vec<u8>>);

impl MemoryHeader {
    /// An area with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(RwLock::new(bytes))
    }

    /// The bytes as they are now.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl HeaderStorage for MemoryHeader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let area = usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(area);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start
            .checked_add(buf.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
