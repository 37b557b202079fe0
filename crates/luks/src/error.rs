//! The one error type of the crate.

use std::io;

/// What failed, and on which part of the volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The header area could not be read.
    #[error("reading {length} bytes of the LUKS header area at offset {offset}")]
    Read {
        /// Byte offset from the start of the header area.
        offset: u64,
        /// Bytes wanted.
        length: usize,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The header area could not be written.
    #[error("writing {length} bytes of the LUKS header area at offset {offset}")]
    Write {
        /// Byte offset from the start of the header area.
        offset: u64,
        /// Bytes to write.
        length: usize,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The first six bytes are not the LUKS magic.
    #[error("Volume is not in LUKS format")]
    NotLuks,
    /// A LUKS version other than 1.
    #[error("LUKS version {0} is not supported")]
    Version(u16),
    /// A cipher, mode, IV generator or hash that this crate does not implement.
    #[error("{what} '{name}' is not supported")]
    Algorithm {
        /// Which kind of algorithm.
        what: &'static str,
        /// Its name in the header or in the caller's text.
        name: String,
    },
    /// A header field holds a value that no valid volume has.
    #[error("LUKS header field '{field}' is invalid: {value}")]
    Field {
        /// The field's name in the LUKS1 specification.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A key slot's record is invalid.
    #[error("LUKS key slot {slot}: {reason}")]
    Slot {
        /// Slot number, 0 to 7.
        slot: usize,
        /// What is wrong with it.
        reason: SlotFault,
    },
    /// No active key slot opens with this passphrase.
    #[error("Invalid password, cannot unlock any keyslot")]
    Passphrase,
    /// Every key slot is in use.
    #[error("Can't add a keyslot - all keyslots are in use")]
    NoFreeSlot,
    /// The last active key slot was about to be erased.
    #[error(
        "Attempt to erase the only active keyslot {0} which will erase all the data in the image irreversibly - refusing operation"
    )]
    LastSlot(usize),
    /// Options that cannot be combined, or out of their range.
    #[error("LUKS option '{option}' is invalid: {value}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: u64,
    },
    /// A buffer whose length is not a multiple of 512 bytes.
    #[error("a buffer of {0} bytes is not whole 512-byte sectors")]
    Unaligned(usize),
    /// The system gave no random bytes.
    #[error("no random bytes for key material: {0}")]
    Random(getrandom::Error),
}

/// Why a key slot's record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotFault {
    /// The `active` word is neither of the two that the specification knows.
    #[error("state {0:#x} is neither active nor inactive")]
    State(u32),
    /// LUKS1 §2.3 fixes the stripe count to 4000.
    #[error("{0} stripes, but LUKS1 has 4000")]
    Stripes(u32),
    /// Zero, or more PBKDF2 iterations than the caller allows.
    #[error("{0} iterations are out of range")]
    Iterations(u32),
    /// The key material would overwrite the header itself.
    #[error("key material at sector {0} overlaps the header")]
    OverlapsHeader(u32),
    /// The key material would overwrite the payload.
    #[error("key material at sector {0} overlaps the payload")]
    OverlapsPayload(u32),
    /// The key material of two slots overlaps.
    #[error("key material overlaps that of slot {0}")]
    OverlapsSlot(usize),
    /// The slot number is not 0 to 7.
    #[error("there is no such slot")]
    Number,
    /// The slot is in use, but a free one was needed.
    #[error("already active")]
    Active,
    /// The slot is free, but one in use was needed.
    #[error("not active")]
    Inactive,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
