//! What the machine's owner may get wrong, and what a sink may refuse. A guest gets no error: its
//! access has no effect.

use crate::msi::MsiError;

/// A function or a bus that can not be as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slot's number is not 0 to 31.
    #[error("there is no PCI slot {slot}")]
    NoSuchSlot {
        /// The number.
        slot: u8,
    },
    /// Something is in the slot.
    #[error("PCI slot {slot} is taken")]
    SlotTaken {
        /// The number.
        slot: u8,
    },
    /// All slots are taken.
    #[error("all PCI slots are taken")]
    NoFreeSlot,
    /// A slot without a function.
    #[error("PCI slot {slot} is empty")]
    SlotEmpty {
        /// The number.
        slot: u8,
    },
    /// A slot from which nothing can be taken while the machine runs.
    #[error("PCI slot {slot} has no hot-plug")]
    NotHotPluggable {
        /// The number.
        slot: u8,
    },
    /// A BAR does not fit into what is left of its window.
    #[error("no room for a BAR of {size:#x} bytes in the {window} window")]
    NoRoom {
        /// Bytes.
        size: u64,
        /// "32-bit" or "64-bit".
        window: &'static str,
    },
    /// A window that is empty, not aligned to pages, or not where it has to be.
    #[error("the {window} window can not be {start:#x} to {end:#x}")]
    Window {
        /// Which one.
        window: &'static str,
        /// The first address.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
    /// A BAR whose size is no power of two of at least 16, or whose register is another's.
    #[error("BAR {bar} of {size:#x} bytes can not be")]
    Bar {
        /// The index.
        bar: u8,
        /// Bytes.
        size: u64,
    },
    /// Configuration space has no room for a capability.
    #[error("no room for a capability of {len} bytes")]
    CapabilityRoom {
        /// Bytes of the capability.
        len: usize,
    },
    /// A number of MSI-X vectors that is not 1 to 2048, or not that of the sink.
    #[error("a function can not have {vectors} MSI-X vectors")]
    Vectors {
        /// The number.
        vectors: u16,
    },
    /// A saved state that is not this function's.
    #[error("the saved state of a PCI function does not fit: {0}")]
    State(&'static str),
    /// The machine can not deliver an interrupt as the driver wants it.
    #[error(transparent)]
    Msi(#[from] MsiError),
}
