//! Buffers with aligned addresses, in safe code: a vector with room to slide.

use std::io;
use std::ops::{Deref, DerefMut};

/// Zeroed bytes whose address is a multiple of a power of two.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes at a multiple of `alignment`, a power of two.
    ///
    /// # Errors
    /// `OutOfMemory` when there is none, `InvalidInput` when `alignment` is not a power of two.
    pub fn new(len: usize, alignment: usize) -> io::Result<Self> {
        if !alignment.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let room = len
            .checked_add(alignment - 1)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let bytes = vec![0; room];
        let start = bytes.as_ptr().align_offset(alignment).min(alignment - 1);
        Ok(Self { bytes, start, len })
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
