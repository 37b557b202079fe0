//! Base address registers.

/// What a BAR maps (PCI Local Bus 3.0, 6.2.5.1). There are no I/O BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64,
}

impl BarKind {
    /// The read-only low bits of the register.
    pub(crate) fn flags(self) -> u32 {
        match self {
            Self::Memory32 => 0,
            Self::Memory64 => 0b100,
        }
    }
}

/// Where a BAR is, with its memory decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// The BAR's index: of its first register, 0 to 5.
    pub bar: u8,
    /// Guest-physical address of its first byte, a multiple of `size`.
    pub base: u64,
    /// Bytes: a power of two. `base + size` does not overflow.
    pub size: u64,
}

/// A BAR as it was declared, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it maps.
    pub kind: BarKind,
    /// Bytes: a power of two.
    pub size: u64,
}
