//! An opened volume: creating it, unlocking it and changing its key slots.

use std::time::Duration;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::algorithm::{CipherSpec, Hash};
use crate::header::{DIGEST_LEN, HEADER_LEN, Header, SALT_LEN, SLOTS, STRIPES};
use crate::kdf::{MAX_ITERATIONS, MIN_ITERATIONS, calibrate, derive};
use crate::sector::SectorCipher;
use crate::storage::HeaderStorage;
use crate::{Error, Result, SlotFault, antiforensic};

/// How often erased key material is overwritten (LUKS1 §3.4 asks for more than once).
const ERASE_PASSES: usize = 40;
/// The longest time that a caller may ask PBKDF2 to take.
const MAX_ITER_TIME: Duration = Duration::from_secs(600);

/// How to create a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Cipher and mode.
    pub cipher: CipherSpec,
    /// Hash of PBKDF2 and of the anti-forensic splitter.
    pub hash: Hash,
    /// How long one try of a passphrase shall take on this machine.
    pub iter_time: Duration,
}

impl Default for CreateOptions {
    /// `aes-256`, `xts-plain64`, `sha256` and 2 seconds: what QEMU chooses.
    fn default() -> Self {
        Self {
            cipher: CipherSpec::default(),
            hash: Hash::Sha256,
            iter_time: Duration::from_secs(2),
        }
    }
}

/// An unlocked LUKS1 volume.
///
/// It holds the header and the payload's cipher; the payload starts at
/// [`payload_offset`](Self::payload_offset) and is read and written by the caller.
#[derive(Debug)]
pub struct Volume {
    header: Header,
    master_key: MasterKey,
    cipher: SectorCipher,
}

struct MasterKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Reads and validates the header without unlocking anything.
///
/// # Errors
/// [`Error::Read`], and all errors of [`Header::parse`].
pub fn read_header(storage: &impl HeaderStorage) -> Result<Header> {
    read_header_within(storage, MAX_ITERATIONS)
}

fn read_header_within(storage: &impl HeaderStorage, max_iterations: u32) -> Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    read(storage, 0, &mut bytes)?;
    Header::parse(&bytes, max_iterations)
}

/// Bytes that the header and key material of a volume with `cipher` take: its payload offset.
pub fn header_area_len(cipher: CipherSpec) -> u64 {
    Header::new(cipher, Hash::Sha256, String::new()).payload_offset()
}

impl Volume {
    /// Writes a new volume's header with one key slot that `passphrase` opens.
    ///
    /// The master key is random. The header is written last, so that an interrupted creation
    /// leaves no header that promises a slot without material.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Random`], and [`Error::Option`] for a time above ten minutes.
    pub fn create(
        storage: &impl HeaderStorage,
        options: &CreateOptions,
        passphrase: &[u8],
    ) -> Result<Self> {
        let mut key = Zeroizing::new(vec![0; options.cipher.key_len()]);
        getrandom::fill(&mut key).map_err(Error::Random)?;
        let cipher = SectorCipher::new(options.cipher, &key)?;

        let mut header = Header::new(options.cipher, options.hash, random_uuid()?);
        getrandom::fill(&mut header.digest_salt).map_err(Error::Random)?;
        // The digest only tells a right master key from a wrong one, so it need not be slow:
        // an eighth of the time, as the reference implementation has it.
        header.digest_iterations = iterations(options.hash, DIGEST_LEN, options.iter_time / 8)?;
        header.digest = digest(&header, &key);

        let mut volume = Self {
            header,
            master_key: MasterKey(key),
            cipher,
        };
        volume.add_key(storage, Some(0), passphrase, options.iter_time)?;
        Ok(volume)
    }

    /// Unlocks the volume with the first key slot that `passphrase` opens.
    ///
    /// # Errors
    /// [`Error::Passphrase`] if no active slot opens, and all errors of [`read_header`].
    pub fn open(storage: &impl HeaderStorage, passphrase: &[u8]) -> Result<Self> {
        Self::open_within(storage, passphrase, MAX_ITERATIONS)
    }

    /// As [`open`](Self::open), refusing a header that wants more than `max_iterations` of
    /// PBKDF2 in any place.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(
        storage: &impl HeaderStorage,
        passphrase: &[u8],
        max_iterations: u32,
    ) -> Result<Self> {
        let header = read_header_within(storage, max_iterations)?;
        for slot in 0..SLOTS {
            if let Some(key) = unlock(storage, &header, slot, passphrase)? {
                let cipher = SectorCipher::new(header.cipher, &key)?;
                return Ok(Self {
                    header,
                    master_key: MasterKey(key),
                    cipher,
                });
            }
        }
        Err(Error::Passphrase)
    }

    /// The header as it is on the medium.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload's cipher. For a LUKS file its sector numbers count from the payload's
    /// start; formats that carry LUKS define their own.
    pub fn cipher(&self) -> &SectorCipher {
        &self.cipher
    }

    /// Gives the payload's cipher away and forgets the master key.
    pub fn into_cipher(self) -> SectorCipher {
        self.cipher
    }

    /// Byte offset of the payload from the start of the header area.
    pub fn payload_offset(&self) -> u64 {
        self.header.payload_offset()
    }

    /// Whether `passphrase` opens `slot`. An inactive slot is never opened.
    ///
    /// # Errors
    /// [`Error::Slot`] for a number above 7, and [`Error::Read`].
    pub fn slot_opens(
        &self,
        storage: &impl HeaderStorage,
        slot: usize,
        passphrase: &[u8],
    ) -> Result<bool> {
        check_number(slot)?;
        Ok(unlock(storage, &self.header, slot, passphrase)?.is_some())
    }

    /// Makes `passphrase` open `slot`, or the first free one, and tells which it was.
    ///
    /// # Errors
    /// [`Error::NoFreeSlot`], [`Error::Slot`] for a slot in use or above 7, [`Error::Option`]
    /// for a time above ten minutes, [`Error::Write`] and [`Error::Random`].
    pub fn add_key(
        &mut self,
        storage: &impl HeaderStorage,
        slot: Option<usize>,
        passphrase: &[u8],
        iter_time: Duration,
    ) -> Result<usize> {
        let free = || self.header.slots.iter().position(|slot| !slot.active);
        let number = slot.or_else(free).ok_or(Error::NoFreeSlot)?;
        check_number(number)?;
        if self.header.slots[number].active {
            return Err(Error::Slot {
                slot: number,
                reason: SlotFault::Active,
            });
        }
        let key = &self.master_key.0;
        let iterations = iterations(self.header.hash, key.len(), iter_time)?;
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(Error::Random)?;

        let mut material = antiforensic::split(self.header.hash, key, STRIPES as usize)?;
        let mut slot_key = Zeroizing::new(vec![0; key.len()]);
        derive(
            self.header.hash,
            passphrase,
            &salt,
            iterations,
            &mut slot_key,
        );
        SectorCipher::new(self.header.cipher, &slot_key)?.encrypt(0, &mut material)?;
        write(storage, self.header.material_offset(number), &material)?;
        flush(storage)?;

        let mut header = self.header.clone();
        let slot = &mut header.slots[number];
        (slot.active, slot.iterations, slot.salt) = (true, iterations, salt);
        self.store(storage, header)?;
        Ok(number)
    }

    /// Makes `passphrase` open `slot` in the place of what opened it; a slot that is not in use
    /// is filled.
    ///
    /// A free slot holds the new key until `slot` has it, so that whatever fails or whenever the
    /// power goes, the old or the new passphrase opens the volume; what may stay behind is the
    /// new key in that slot. With all eight slots in use the format has no place for a second
    /// copy: the other seven keys alone guard the volume until the new one is written.
    ///
    /// # Errors
    /// [`Error::Slot`] for a number above 7, [`Error::Option`] for a time above ten minutes,
    /// [`Error::Read`], [`Error::Write`] and [`Error::Random`].
    pub fn replace_key(
        &mut self,
        storage: &impl HeaderStorage,
        slot: usize,
        passphrase: &[u8],
        iter_time: Duration,
    ) -> Result<()> {
        check_number(slot)?;
        check_time(iter_time)?;
        if !self.header.slots[slot].active {
            return self
                .add_key(storage, Some(slot), passphrase, iter_time)
                .map(drop);
        }
        let guard = match self.add_key(storage, None, passphrase, iter_time) {
            Ok(guard) => Some(guard),
            Err(Error::NoFreeSlot) => None,
            Err(error) => return Err(error),
        };
        self.remove_key(storage, slot, true)?;
        self.add_key(storage, Some(slot), passphrase, iter_time)?;
        match guard {
            Some(guard) => self.remove_key(storage, guard, false),
            None => Ok(()),
        }
    }

    /// Erases `slot`: marks it free, then overwrites its key material.
    ///
    /// # Errors
    /// [`Error::LastSlot`] if no other slot is active and `force` is not given,
    /// [`Error::Slot`] for one that is not active or above 7, [`Error::Write`] and
    /// [`Error::Random`].
    pub fn remove_key(
        &mut self,
        storage: &impl HeaderStorage,
        slot: usize,
        force: bool,
    ) -> Result<()> {
        check_number(slot)?;
        if !self.header.slots[slot].active {
            return Err(Error::Slot {
                slot,
                reason: SlotFault::Inactive,
            });
        }
        let active = self.header.slots.iter().filter(|slot| slot.active).count();
        if active == 1 && !force {
            return Err(Error::LastSlot(slot));
        }
        let mut header = self.header.clone();
        let record = &mut header.slots[slot];
        (record.active, record.iterations, record.salt) = (false, 0, [0; SALT_LEN]);
        self.store(storage, header)?;
        self.erase_material(storage, slot)
    }

    fn erase_material(&self, storage: &impl HeaderStorage, slot: usize) -> Result<()> {
        let mut noise = vec![0; self.header.material_len()];
        for _ in 0..ERASE_PASSES {
            getrandom::fill(&mut noise).map_err(Error::Random)?;
            write(storage, self.header.material_offset(slot), &noise)?;
            flush(storage)?;
        }
        Ok(())
    }

    /// Writes `header` and keeps it only when the medium has it.
    fn store(&mut self, storage: &impl HeaderStorage, header: Header) -> Result<()> {
        write(storage, 0, &header.to_bytes())?;
        flush(storage)?;
        self.header = header;
        Ok(())
    }
}

/// The master key, if `slot` is active and `passphrase` opens it.
fn unlock(
    storage: &impl HeaderStorage,
    header: &Header,
    slot: usize,
    passphrase: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let record = &header.slots[slot];
    if !record.active {
        return Ok(None);
    }
    let key_len = header.cipher.key_len();
    let mut slot_key = Zeroizing::new(vec![0; key_len]);
    derive(
        header.hash,
        passphrase,
        &record.salt,
        record.iterations,
        &mut slot_key,
    );

    let mut material = Zeroizing::new(vec![0; header.material_len()]);
    read(storage, header.material_offset(slot), &mut material)?;
    SectorCipher::new(header.cipher, &slot_key)?.decrypt(0, &mut material)?;
    let key = antiforensic::merge(header.hash, &material, key_len);
    let right: bool = digest(header, &key).ct_eq(&header.digest).into();
    Ok(right.then_some(key))
}

fn digest(header: &Header, key: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    derive(
        header.hash,
        key,
        &header.digest_salt,
        header.digest_iterations,
        &mut digest,
    );
    digest
}

fn check_time(time: Duration) -> Result<()> {
    if time > MAX_ITER_TIME {
        return Err(Error::Option {
            option: "iter-time",
            value: time.as_secs(),
        });
    }
    Ok(())
}

fn iterations(hash: Hash, key_len: usize, time: Duration) -> Result<u32> {
    check_time(time)?;
    Ok(calibrate(hash, key_len, time).max(MIN_ITERATIONS))
}

/// A random (version 4) UUID, RFC 9562 §5.4.
fn random_uuid() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let groups = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(groups.join("-"))
}

fn check_number(slot: usize) -> Result<()> {
    if slot >= SLOTS {
        return Err(Error::Slot {
            slot,
            reason: SlotFault::Number,
        });
    }
    Ok(())
}

fn read(storage: &impl HeaderStorage, offset: u64, buf: &mut [u8]) -> Result<()> {
    let length = buf.len();
    storage.read_at(offset, buf).map_err(|source| Error::Read {
        offset,
        length,
        source,
    })
}

fn write(storage: &impl HeaderStorage, offset: u64, buf: &[u8]) -> Result<()> {
    let length = buf.len();
    storage
        .write_at(offset, buf)
        .map_err(|source| Error::Write {
            offset,
            length,
            source,
        })
}

fn flush(storage: &impl HeaderStorage) -> Result<()> {
    storage.flush().map_err(|source| Error::Write {
        offset: 0,
        length: 0,
        source,
    })
}
