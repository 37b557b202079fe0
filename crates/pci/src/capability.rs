//! Capabilities, by their constructors.

/// A capability: its id, its registers, and which bits of those a guest may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    pub(crate) id: u8,
    /// What follows the id and the pointer to the next capability.
    pub(crate) body: Vec<u8>,
    /// As long as `body`.
    pub(crate) writable: Vec<u8>,
}

impl Capability {
    /// Vendor-specific (PCI Local Bus 3.0, H.8).
    pub const VENDOR: u8 = 0x09;
    /// MSI-X (PCI Local Bus 3.0, 6.8.2).
    pub const MSIX: u8 = 0x11;

    /// MSI-X: `vectors` vectors (1 to 2048), with the table and the pending bits at these offsets
    /// (multiples of 8) of `bar`.
    pub fn msix(vectors: u16, bar: u8, table: u32, pba: u32) -> Self {
        let mut body = Vec::with_capacity(10);
        body.extend_from_slice(&(vectors.clamp(1, 2048) - 1).to_le_bytes());
        for offset in [table, pba] {
            body.extend_from_slice(&(offset & !7 | u32::from(bar & 7)).to_le_bytes());
        }
        let mut writable = vec![0; body.len()];
        // Enable and function mask, in the upper byte of message control.
        writable[1] = 0xc0;
        Self {
            id: Self::MSIX,
            body,
            writable,
        }
    }

    /// Vendor-specific with `body` after the length byte, which is added. Bits that are set in
    /// `writable` (up to the length of `body`) may be written.
    pub fn vendor(body: &[u8], writable: &[u8]) -> Self {
        let len = u8::try_from(body.len() + 3).unwrap_or(u8::MAX);
        let mut writable: Vec<u8> = [0].iter().chain(writable).copied().collect();
        writable.resize(body.len() + 1, 0);
        Self {
            id: Self::VENDOR,
            body: [len].iter().chain(body).copied().collect(),
            writable,
        }
    }
}
