//! LUKS by strata-luks: its header in a [`Storage`], and its cipher for an image's clusters.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use strata_luks::{CreateOptions, HeaderStorage, SectorCipher, Volume};

use crate::crypt::{Cipher, Unlocked};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// A storage as the area of a LUKS header.
pub struct HeaderArea<'a>(pub &'a dyn Storage);

impl HeaderStorage for HeaderArea<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // A storage reads as zeroes past its end, and no header is made of them.
        if end > self.0.len()? {
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

/// Opens the volume whose header `header` shows, for [`Unlock::unlock`](crate::Unlock::unlock).
///
/// # Errors
/// Those of [`Volume::open`]; how they are told is the caller's.
pub fn unlock(header: &dyn Storage, passphrase: &[u8]) -> strata_luks::Result<Unlocked> {
    let volume = Volume::open(&HeaderArea(header), passphrase)?;
    let payload = volume.payload_offset();
    let cipher = Arc::new(Payload(volume.into_cipher()));
    Ok(Unlocked { cipher, payload })
}

/// Makes a volume's header, for [`Format::format`](crate::Format::format).
///
/// # Errors
/// Those of [`Volume::create`].
pub fn format(
    header: &dyn Storage,
    options: &CreateOptions,
    passphrase: &[u8],
) -> strata_luks::Result<Arc<dyn Cipher>> {
    let volume = Volume::create(&HeaderArea(header), options, passphrase)?;
    Ok(Arc::new(Payload(volume.into_cipher())))
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
    Error::Encryption(error.to_string())
}
