//! The LUKS1 header (on-disk specification §2.1): parsing, validation and serialisation.

use std::ops::Range;

use crate::algorithm::{CipherSpec, Hash};
use crate::sector::SECTOR_SIZE;
use crate::{Error, Result, SlotFault};

/// Bytes of the header itself, key material not counted.
pub const HEADER_LEN: usize = 592;
/// Key slots of every LUKS1 volume.
pub const SLOTS: usize = 8;
/// Stripes of every key slot.
pub(crate) const STRIPES: u32 = 4000;
pub(crate) const SALT_LEN: usize = 32;
pub(crate) const DIGEST_LEN: usize = 20;

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Key material and payload start on multiples of 4096 bytes, as QEMU and cryptsetup lay out.
const ALIGN_SECTORS: u32 = 8;
/// Sectors kept for the header in front of the key material.
const HEADER_SECTORS: u32 = 8;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
const SLOT_INACTIVE: u32 = 0x0000_dead;
const NAME_LEN: usize = 32;
const UUID_LEN: usize = 40;
const SLOTS_AT: usize = 208;
const SLOT_LEN: usize = 48;

/// One key slot's record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Slot {
    /// Whether a passphrase opens it.
    pub active: bool,
    /// PBKDF2 iterations; 0 when inactive.
    pub iterations: u32,
    /// PBKDF2 salt.
    pub salt: [u8; SALT_LEN],
    /// First 512-byte sector of its key material.
    pub material_sector: u32,
}

/// A validated LUKS1 header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Header {
    /// Cipher and mode of payload and key material.
    pub cipher: CipherSpec,
    /// Hash of PBKDF2 and of the anti-forensic splitter.
    pub hash: Hash,
    /// First 512-byte sector of the payload.
    pub payload_sector: u32,
    /// Digest by which a master key is recognised.
    pub digest: [u8; DIGEST_LEN],
    /// Salt of that digest.
    pub digest_salt: [u8; SALT_LEN],
    /// PBKDF2 iterations of that digest.
    pub digest_iterations: u32,
    /// The volume's UUID in text.
    pub uuid: String,
    /// The eight key slots.
    pub slots: [Slot; SLOTS],
}

impl Header {
    /// A header without active slots, laid out for `cipher`.
    pub(crate) fn new(cipher: CipherSpec, hash: Hash, uuid: String) -> Self {
        let stride = material_sectors(cipher).next_multiple_of(ALIGN_SECTORS);
        let at = |slot: usize| HEADER_SECTORS + stride * slot as u32;
        Self {
            cipher,
            hash,
            payload_sector: at(SLOTS),
            digest: [0; DIGEST_LEN],
            digest_salt: [0; SALT_LEN],
            digest_iterations: 0,
            uuid,
            slots: std::array::from_fn(|slot| Slot {
                active: false,
                iterations: 0,
                salt: [0; SALT_LEN],
                material_sector: at(slot),
            }),
        }
    }

    /// Parses and validates the first [`HEADER_LEN`] bytes of a volume.
    ///
    /// `max_iterations` bounds the work that opening the volume may cost.
    ///
    /// # Errors
    /// [`Error::NotLuks`], [`Error::Version`], [`Error::Algorithm`], [`Error::Field`] or
    /// [`Error::Slot`], by the first part that no valid volume has.
    pub fn parse(bytes: &[u8; HEADER_LEN], max_iterations: u32) -> Result<Self> {
        if bytes[..6] != MAGIC {
            return Err(Error::NotLuks);
        }
        let version = u16::from_be_bytes(array(bytes, 6));
        if version != 1 {
            return Err(Error::Version(version));
        }
        let cipher_name = text("cipher-name", &bytes[8..8 + NAME_LEN])?;
        let cipher_mode = text("cipher-mode", &bytes[40..40 + NAME_LEN])?;
        let hash = text("hash-spec", &bytes[72..72 + NAME_LEN])?;
        let digest_iterations = be32(bytes, 164);
        if !(1..=max_iterations).contains(&digest_iterations) {
            let value = digest_iterations.into();
            return Err(Error::Field {
                field: "mk-digest-iterations",
                value,
            });
        }
        let header = Self {
            cipher: CipherSpec::from_header(&cipher_name, &cipher_mode, be32(bytes, 108))?,
            hash: Hash::from_name(&hash)?,
            payload_sector: be32(bytes, 104),
            digest: array(bytes, 112),
            digest_salt: array(bytes, 132),
            digest_iterations,
            uuid: text("uuid", &bytes[168..168 + UUID_LEN])?,
            slots: parse_slots(bytes, max_iterations)?,
        };
        header.check_layout()?;
        Ok(header)
    }

    /// The bytes that [`parse`](Self::parse) reads.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, b"aes");
        put(40, self.cipher.mode.name().as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &self.payload_sector.to_be_bytes());
        put(108, &(self.cipher.key_len() as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_iterations.to_be_bytes());
        put(
            168,
            &self.uuid.as_bytes()[..self.uuid.len().min(UUID_LEN - 1)],
        );
        for (number, slot) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + number * SLOT_LEN;
            let state = if slot.active {
                SLOT_ACTIVE
            } else {
                SLOT_INACTIVE
            };
            put(at, &state.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.material_sector.to_be_bytes());
            put(at + 44, &STRIPES.to_be_bytes());
        }
        bytes
    }

    /// Byte offset of the payload from the start of the header area.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload_sector) * SECTOR_SIZE as u64
    }

    /// Byte offset of a slot's key material.
    pub(crate) fn material_offset(&self, slot: usize) -> u64 {
        u64::from(self.slots[slot].material_sector) * SECTOR_SIZE as u64
    }

    /// Bytes of every slot's key material: whole sectors, because STRIPES is a multiple of 32
    /// and every key length one of 16.
    pub(crate) fn material_len(&self) -> usize {
        self.cipher.key_len() * STRIPES as usize
    }

    /// No key material may reach into the header, the payload or another slot's. Inactive
    /// slots count as well: adding a key writes there.
    fn check_layout(&self) -> Result<()> {
        let length = u64::from(material_sectors(self.cipher));
        let range = |slot: &Slot| -> Range<u64> {
            let start = u64::from(slot.material_sector);
            start..start + length
        };
        for (number, slot) in self.slots.iter().enumerate() {
            let fault = |reason| Error::Slot {
                slot: number,
                reason,
            };
            let this = range(slot);
            if this.start < (HEADER_LEN.div_ceil(SECTOR_SIZE)) as u64 {
                return Err(fault(SlotFault::OverlapsHeader(slot.material_sector)));
            }
            if this.end > u64::from(self.payload_sector) {
                return Err(fault(SlotFault::OverlapsPayload(slot.material_sector)));
            }
            let clash = self.slots[..number]
                .iter()
                .map(range)
                .position(|other| this.start < other.end && other.start < this.end);
            if let Some(other) = clash {
                return Err(fault(SlotFault::OverlapsSlot(other)));
            }
        }
        Ok(())
    }
}

fn material_sectors(cipher: CipherSpec) -> u32 {
    (cipher.key_len() as u32 * STRIPES).div_ceil(SECTOR_SIZE as u32)
}

fn parse_slots(bytes: &[u8; HEADER_LEN], max_iterations: u32) -> Result<[Slot; SLOTS]> {
    let mut slots = Vec::with_capacity(SLOTS);
    for number in 0..SLOTS {
        let slot =
            parse_slot(bytes, SLOTS_AT + number * SLOT_LEN, max_iterations).map_err(|reason| {
                Error::Slot {
                    slot: number,
                    reason,
                }
            })?;
        slots.push(slot);
    }
    slots.try_into().map_err(|_| Error::NotLuks)
}

fn parse_slot(
    bytes: &[u8; HEADER_LEN],
    at: usize,
    max_iterations: u32,
) -> std::result::Result<Slot, SlotFault> {
    let active = match be32(bytes, at) {
        SLOT_ACTIVE => true,
        SLOT_INACTIVE => false,
        state => return Err(SlotFault::State(state)),
    };
    let iterations = be32(bytes, at + 4);
    if active && !(1..=max_iterations).contains(&iterations) {
        return Err(SlotFault::Iterations(iterations));
    }
    let stripes = be32(bytes, at + 44);
    if stripes != STRIPES {
        return Err(SlotFault::Stripes(stripes));
    }
    let (salt, material_sector) = (array(bytes, at + 8), be32(bytes, at + 40));
    Ok(Slot {
        active,
        iterations,
        salt,
        material_sector,
    })
}

/// A fixed field; `at + N` is within the header for every caller.
fn array<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn be32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// NUL-terminated printable ASCII: the text is repeated in messages.
fn text(field: &'static str, bytes: &[u8]) -> Result<String> {
    let invalid = || Error::Field { field, value: 0 };
    let end = bytes.iter().position(|b| *b == 0).ok_or_else(invalid)?;
    let text = &bytes[..end];
    if !text.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err(invalid());
    }
    Ok(text.iter().map(|b| char::from(*b)).collect())
}
