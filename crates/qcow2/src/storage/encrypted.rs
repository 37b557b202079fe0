//! A LUKS volume as a storage of its plain text.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, PoisonError, RwLock};

use super::Storage;
use crate::crypt::{Cipher, SECTOR, Unlock, Unlocked};
use crate::error::{Error, Result};

/// Most bytes that are encrypted or decrypted in one buffer.
const STEP: u64 = 1 << 20;

/// The plain text of a volume: its payload, from offset 0 on.
pub struct EncryptedStorage {
    file: Arc<dyn Storage>,
    cipher: Arc<dyn Cipher>,
    payload: u64,
    /// Held for writing while a write rewrites the rest of its first and last sectors.
    rewriting: RwLock<()>,
}

impl EncryptedStorage {
    /// Opens the volume in `file` with `key`.
    ///
    /// # Errors
    /// [`Error::Encryption`] if the key does not fit, or for a header that names a payload past
    /// the end of the file; [`Error::Io`].
    pub fn open(file: Arc<dyn Storage>, key: &dyn Unlock) -> Result<Self> {
        let length = file.size()?;
        let Unlocked { cipher, payload } = key.unlock(&*file, length)?;
        if payload > length {
            return Err(Error::Encryption(format!(
                "the payload of the LUKS volume starts at {payload:#x}, past the end of the file"
            )));
        }
        Ok(Self {
            file,
            cipher,
            payload,
            rewriting: RwLock::new(()),
        })
    }

    fn place(&self, offset: u64) -> io::Result<u64> {
        let place = self.payload.checked_add(offset);
        place.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Calls `each` with every piece of a range: the piece's first sector in bytes, how far into
    /// it the range starts, the length of its sectors, and which part of the range it is.
    fn pieces(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, usize, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset
                .checked_add(done as u64)
                .ok_or(io::ErrorKind::InvalidInput)?;
            let lead = (at % SECTOR) as usize;
            let span = ((lead + length - done) as u64)
                .next_multiple_of(SECTOR)
                .min(STEP) as usize;
            let count = (span - lead).min(length - done);
            each(at - lead as u64, lead, span, done..done + count)?;
            done += count;
        }
        Ok(())
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Self::pieces(offset, buf.len(), |start, lead, span, part| {
            let target = &mut buf[part];
            if target.len() == span {
                return self.read_sectors(target, start);
            }
            let mut bounce = vec![0; span];
            self.read_sectors(&mut bounce, start)?;
            target.copy_from_slice(&bounce[lead..lead + target.len()]);
            Ok(())
        })
    }

    fn read_sectors(&self, buf: &mut [u8], start: u64) -> io::Result<()> {
        let place = self.place(start)?;
        self.file
            .read_vectored_at(&mut [IoSliceMut::new(buf)], place)?;
        self.cipher
            .decrypt(start / SECTOR, buf)
            .map_err(io::Error::other)
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let aligned = (offset | buf.len() as u64).is_multiple_of(SECTOR);
        let lock = &self.rewriting;
        let (_shared, _alone) = if aligned {
            (
                Some(lock.read().unwrap_or_else(PoisonError::into_inner)),
                None,
            )
        } else {
            (
                None,
                Some(lock.write().unwrap_or_else(PoisonError::into_inner)),
            )
        };
        Self::pieces(offset, buf.len(), |start, lead, span, part| {
            let source = &buf[part];
            // The caller's bytes stay as they are, so the ciphertext needs a place of its own.
            let mut bounce = vec![0; span];
            if source.len() != span {
                self.read_sectors(&mut bounce, start)?;
            }
            bounce[lead..lead + source.len()].copy_from_slice(source);
            self.cipher
                .encrypt(start / SECTOR, &mut bounce)
                .map_err(io::Error::other)?;
            let place = self.place(start)?;
            self.file.write_vectored_at(&[IoSlice::new(&bounce)], place)
        })
    }
}

impl Storage for EncryptedStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.read(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.saturating_sub(self.payload))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(self.place(len)?)
    }

    /// The host would give back zeroes where ciphertext of zeroes is expected.
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn grows_with_zeroes(&self) -> bool {
        false
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}
