//! The seam between this crate and an encryption layer.

use std::sync::Arc;

use crate::error::Result;
use crate::storage::Storage;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;

/// Encrypts and decrypts sectors of 512 bytes.
pub trait Cipher: Send + Sync {
    /// Encrypts `data` (whole sectors) in place; `sector` is the number of the first one.
    fn encrypt(&self, sector: u64, data: &mut [u8]) -> Result<()>;

    /// Decrypts `data` (whole sectors) in place; `sector` is the number of the first one.
    fn decrypt(&self, sector: u64, data: &mut [u8]) -> Result<()>;
}

/// What a key opens.
pub struct Unlocked {
    /// Encrypts and decrypts the data.
    pub cipher: Arc<dyn Cipher>,
    /// Where the data of a LUKS file starts, in bytes. Inside of a qcow2 image this means nothing:
    /// its clusters hold the data.
    pub payload: u64,
}

/// Turns a LUKS header, inside an image or at the start of a file, into a [`Cipher`].
pub trait Unlock: Send + Sync {
    /// `header` shows the LUKS header from offset 0 on, and may hold no more than `length` bytes.
    ///
    /// # Errors
    /// [`crate::Error::Encryption`] if the key does not fit.
    fn unlock(&self, header: &dyn Storage, length: u64) -> Result<Unlocked>;
}

/// Makes the LUKS header of a new image.
pub trait Format: Send + Sync {
    /// Bytes of the header; known before anything is written.
    fn header_length(&self) -> u64;

    /// Writes the header to `header`, from offset 0 on.
    fn format(&self, header: &dyn Storage) -> Result<Arc<dyn Cipher>>;
}

/// The cipher of an image that was opened without a key: its data stays closed.
pub(crate) struct Locked;

impl Locked {
    fn refuse() -> Result<()> {
        Err(crate::Error::Encryption(
            "the image is encrypted and was opened without a key".into(),
        ))
    }
}

impl Cipher for Locked {
    fn encrypt(&self, _sector: u64, _data: &mut [u8]) -> Result<()> {
        Self::refuse()
    }

    fn decrypt(&self, _sector: u64, _data: &mut [u8]) -> Result<()> {
        Self::refuse()
    }
}

/// A window onto a part of another storage, which starts at offset 0 and may not be left.
pub(crate) struct Window<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Window<'_> {
    fn place(&self, offset: u64, length: usize) -> std::io::Result<u64> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.length => Ok(self.start + offset),
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Storage for Window<'_> {
    fn read_vectored_at(
        &self,
        bufs: &mut [std::io::IoSliceMut<'_>],
        offset: u64,
    ) -> std::io::Result<()> {
        let at = self.place(offset, bufs.iter().map(|buf| buf.len()).sum())?;
        self.storage.read_vectored_at(bufs, at)
    }

    fn write_vectored_at(&self, bufs: &[std::io::IoSlice<'_>], offset: u64) -> std::io::Result<()> {
        let at = self.place(offset, bufs.iter().map(|buf| buf.len()).sum())?;
        self.storage.write_vectored_at(bufs, at)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.storage.flush()
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(self.length)
    }

    fn set_len(&self, _len: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::InvalidInput.into())
    }

    fn discard(&self, _offset: u64, _len: u64) -> std::io::Result<()> {
        Ok(())
    }
}
