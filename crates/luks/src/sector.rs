//! Sector encryption in place: XTS and CBC over AES, 512-byte sectors.

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Aes256, Block};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::algorithm::{Cipher, CipherSpec, Mode};
use crate::{Error, Result};

/// Bytes of one sector, the unit that is enciphered at once.
pub const SECTOR_SIZE: usize = 512;

const BLOCK: usize = 16;
const BLOCKS: usize = SECTOR_SIZE / BLOCK;

type Sector = [Block; BLOCKS];

/// Enciphers and deciphers whole sectors in place.
///
/// It holds the expanded keys and no other state, so that any number of threads may use one
/// value at once. The keys are wiped when it is dropped.
///
/// ```
/// use strata_luks::{CipherSpec, SectorCipher};
///
/// let cipher = SectorCipher::new(CipherSpec::default(), &[7; 64])?;
/// let mut data = vec![0x55; 1024];
/// cipher.encrypt(100, &mut data)?;
/// assert_ne!(data, [0x55; 1024]);
/// cipher.decrypt(100, &mut data)?;
/// assert_eq!(data, [0x55; 1024]);
/// # Ok::<(), strata_luks::Error>(())
/// ```
pub struct SectorCipher {
    spec: CipherSpec,
    data: Aes,
    /// The tweak key of XTS or the salt key of ESSIV.
    iv: Option<Aes>,
}

enum Aes {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

impl Aes {
    fn new(cipher: Cipher, key: &[u8]) -> Self {
        match cipher {
            Cipher::Aes128 => Aes::Aes128(Box::new(Aes128::new(GenericArray::from_slice(key)))),
            Cipher::Aes256 => Aes::Aes256(Box::new(Aes256::new(GenericArray::from_slice(key)))),
        }
    }

    fn encrypt(&self, blocks: &mut [Block]) {
        match self {
            Aes::Aes128(aes) => aes.encrypt_blocks(blocks),
            Aes::Aes256(aes) => aes.encrypt_blocks(blocks),
        }
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        match self {
            Aes::Aes128(aes) => aes.decrypt_blocks(blocks),
            Aes::Aes256(aes) => aes.decrypt_blocks(blocks),
        }
    }
}

impl SectorCipher {
    /// A cipher for `key`, whose length must be [`CipherSpec::key_len`] bytes.
    ///
    /// # Errors
    /// [`Error::Field`] for a key of another length.
    pub fn new(spec: CipherSpec, key: &[u8]) -> Result<Self> {
        if key.len() != spec.key_len() {
            return Err(Error::Field {
                field: "key-bytes",
                value: key.len() as u64,
            });
        }
        let (data, rest) = key.split_at(spec.cipher.key_len());
        let iv = match spec.mode {
            Mode::XtsPlain64 | Mode::XtsPlain => Some(Aes::new(spec.cipher, rest)),
            Mode::CbcEssivSha256 => {
                let salt: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(data).into());
                Some(Aes::new(Cipher::Aes256, salt.as_slice()))
            }
            Mode::CbcPlain64 | Mode::CbcPlain => None,
        };
        Ok(Self {
            spec,
            data: Aes::new(spec.cipher, data),
            iv,
        })
    }

    /// What this cipher was made for.
    pub fn spec(&self) -> CipherSpec {
        self.spec
    }

    /// Enciphers `data`, whose first byte is the first of sector number `first`.
    ///
    /// # Errors
    /// [`Error::Unaligned`] unless `data` is whole 512-byte sectors.
    pub fn encrypt(&self, first: u64, data: &mut [u8]) -> Result<()> {
        let encrypt = if self.spec.mode.is_xts() {
            Self::encrypt_xts
        } else {
            Self::encrypt_cbc
        };
        self.each_sector(first, data, encrypt)
    }

    /// Deciphers `data`, whose first byte is the first of sector number `first`.
    ///
    /// # Errors
    /// [`Error::Unaligned`] unless `data` is whole 512-byte sectors.
    pub fn decrypt(&self, first: u64, data: &mut [u8]) -> Result<()> {
        let decrypt = if self.spec.mode.is_xts() {
            Self::decrypt_xts
        } else {
            Self::decrypt_cbc
        };
        self.each_sector(first, data, decrypt)
    }

    fn each_sector(
        &self,
        first: u64,
        data: &mut [u8],
        apply: impl Fn(&Self, u128, &mut Sector),
    ) -> Result<()> {
        let (sectors, rest) = data.as_chunks_mut::<SECTOR_SIZE>();
        if !rest.is_empty() {
            return Err(Error::Unaligned(sectors.len() * SECTOR_SIZE + rest.len()));
        }
        let mut number = first;
        for bytes in sectors {
            let mut sector: Sector = [Block::default(); BLOCKS];
            for (block, bytes) in sector.iter_mut().zip(bytes.as_chunks::<BLOCK>().0) {
                *block = (*bytes).into();
            }
            apply(self, self.initial(number), &mut sector);
            for (block, bytes) in sector.iter().zip(bytes.as_chunks_mut::<BLOCK>().0) {
                *bytes = (*block).into();
            }
            number = number.wrapping_add(1);
        }
        Ok(())
    }

    /// The IV or tweak of sector `number`, little-endian as `plain` and `plain64` lay it out.
    fn initial(&self, number: u64) -> u128 {
        let plain = match self.spec.mode {
            Mode::XtsPlain | Mode::CbcPlain => number & u64::from(u32::MAX),
            Mode::XtsPlain64 | Mode::CbcPlain64 | Mode::CbcEssivSha256 => number,
        };
        let Some(aes) = &self.iv else {
            return plain.into();
        };
        let mut block = [Block::from(u128::from(plain).to_le_bytes())];
        aes.encrypt(&mut block);
        load(&block[0])
    }

    fn encrypt_xts(&self, tweak: u128, sector: &mut Sector) {
        xor_tweaks(tweak, sector);
        self.data.encrypt(sector);
        xor_tweaks(tweak, sector);
    }

    fn decrypt_xts(&self, tweak: u128, sector: &mut Sector) {
        xor_tweaks(tweak, sector);
        self.data.decrypt(sector);
        xor_tweaks(tweak, sector);
    }

    fn encrypt_cbc(&self, iv: u128, sector: &mut Sector) {
        let mut previous = iv;
        for block in sector.chunks_exact_mut(1) {
            block[0] = (load(&block[0]) ^ previous).to_le_bytes().into();
            self.data.encrypt(block);
            previous = load(&block[0]);
        }
    }

    fn decrypt_cbc(&self, iv: u128, sector: &mut Sector) {
        let enciphered = *sector;
        self.data.decrypt(sector);
        let mut previous = iv;
        for (block, enciphered) in sector.iter_mut().zip(&enciphered) {
            *block = (load(block) ^ previous).to_le_bytes().into();
            previous = load(enciphered);
        }
    }
}

impl std::fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SectorCipher")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

fn load(block: &Block) -> u128 {
    u128::from_le_bytes((*block).into())
}

/// XORs block `i` with `tweak * x^i` in GF(2^128) (IEEE 1619 §5.2).
fn xor_tweaks(mut tweak: u128, sector: &mut Sector) {
    for block in sector {
        *block = (load(block) ^ tweak).to_le_bytes().into();
        let carry = (tweak >> 127) * 0x87;
        tweak = (tweak << 1) ^ carry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cipher: Cipher, mode: Mode) -> CipherSpec {
        CipherSpec { cipher, mode }
    }

    /// IEEE 1619-2007 annex B, vector 4 (AES-128, sector 0, bytes 0 to 255 twice).
    #[test]
    fn ieee1619_vector_4() {
        let key: Vec<u8> = [
            0x2718_2818_2845_9045_2353_6028_7471_3526_u128,
            0x3141_5926_5358_9793_2384_6264_3383_2795,
        ]
        .iter()
        .flat_map(|half| half.to_be_bytes())
        .collect();
        let cipher = SectorCipher::new(spec(Cipher::Aes128, Mode::XtsPlain64), &key).unwrap();
        let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
        cipher.encrypt(0, &mut data).unwrap();
        assert_eq!(data[..8], [0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1, 0xd4, 0x76]);
        assert_eq!(data[508..], [0x31, 0x9d, 0x05, 0x68]);
    }

    #[test]
    fn every_mode_round_trips_and_depends_on_the_sector() {
        for cipher in [Cipher::Aes128, Cipher::Aes256] {
            for mode in [
                Mode::XtsPlain64,
                Mode::XtsPlain,
                Mode::CbcPlain64,
                Mode::CbcPlain,
                Mode::CbcEssivSha256,
            ] {
                let spec = spec(cipher, mode);
                let key: Vec<u8> = (1..=spec.key_len() as u8).collect();
                let cipher = SectorCipher::new(spec, &key).unwrap();
                let plain: Vec<u8> = vec![0xa5; 2 * SECTOR_SIZE];
                let mut data = plain.clone();
                cipher.encrypt(9, &mut data).unwrap();
                assert_ne!(data[..SECTOR_SIZE], data[SECTOR_SIZE..], "{mode:?}");
                // The second sector alone, under its own number.
                cipher.decrypt(10, &mut data[SECTOR_SIZE..]).unwrap();
                cipher.decrypt(9, &mut data[..SECTOR_SIZE]).unwrap();
                assert_eq!(data, plain, "{mode:?}");
            }
        }
    }

    #[test]
    fn partial_sectors_are_refused() {
        let cipher = SectorCipher::new(CipherSpec::default(), &[1; 64]).unwrap();
        assert!(matches!(
            cipher.encrypt(0, &mut [0; 513]),
            Err(Error::Unaligned(513))
        ));
    }
}
