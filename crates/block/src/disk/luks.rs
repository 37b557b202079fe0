//! The key of an encrypted file: a passphrase that opens its LUKS header.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use strata_luks::{HeaderStorage, SectorCipher, Volume};
use strata_qcow2::{Cipher, Error, Result, Storage, Unlock, Unlocked};
use zeroize::Zeroizing;

/// A passphrase, for [`Disk::open_with_keys`](super::Disk::open_with_keys): it opens LUKS files, and
/// qcow2 images with a LUKS payload. That takes as long as the volume's maker chose, often a second
/// or two. The passphrase is wiped from memory with the last copy of the key.
#[derive(Clone)]
pub struct LuksKey(Arc<Zeroizing<Vec<u8>>>);

impl LuksKey {
    /// The key of this passphrase: any bytes.
    pub fn new(passphrase: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(passphrase.to_vec())))
    }
}

impl std::fmt::Debug for LuksKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LuksKey").finish_non_exhaustive()
    }
}

impl Unlock for LuksKey {
    fn unlock(&self, header: &dyn Storage, _length: u64) -> Result<Unlocked> {
        let volume = Volume::open(&HeaderArea(header), &self.0).map_err(refused)?;
        let payload = volume.payload_offset();
        let cipher = Arc::new(Payload(volume.into_cipher()));
        Ok(Unlocked { cipher, payload })
    }
}

/// A storage as the area of a LUKS header.
struct HeaderArea<'a>(&'a dyn Storage);

impl HeaderStorage for HeaderArea<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        // A storage reads as zeroes past its end, and no header is made of them.
        if end.is_none_or(|end| self.0.len().is_ok_and(|len| end > len)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_vectored_at(&mut [IoSliceMut::new(buf)], offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.write_vectored_at(&[IoSlice::new(buf)], offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The cipher of a volume's payload.
struct Payload(SectorCipher);

impl Cipher for Payload {
    fn encrypt(&self, sector: u64, data: &mut [u8]) -> Result<()> {
        self.0.encrypt(sector, data).map_err(refused)
    }

    fn decrypt(&self, sector: u64, data: &mut [u8]) -> Result<()> {
        self.0.decrypt(sector, data).map_err(refused)
    }
}

fn refused(error: strata_luks::Error) -> Error {
    Error::Encryption(match error {
        strata_luks::Error::Passphrase => {
            "none of its key slots opens with this passphrase: give the right one".to_owned()
        }
        error => error.to_string(),
    })
}
