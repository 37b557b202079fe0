//! The IOAPIC's state as plain data.

use super::entry::Entry;
use super::{ALL_PINS, ID_MAX, Ioapic, PINS};
use crate::Error;

/// An IOAPIC's registers and lines. Every field is untrusted until [`Ioapic::from_state`] has
/// taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct IoapicState {
    /// The APIC id: 0 to 15.
    pub id: u8,
    /// The register that IOREGSEL selects.
    pub select: u8,
    /// Bit N: pin N's line is asserted.
    pub lines: u32,
    /// Bit N: an edge of pin N waits for its delivery.
    pub pending: u32,
    /// The redirection table, without the delivery status.
    pub entries: [u64; PINS],
}

impl IoapicState {
    /// Name and version of this layout.
    pub const KIND: (&'static str, u32) = ("ioapic", 1);
}

impl Ioapic {
    /// The state to save. Nothing changes.
    pub fn state(&self) -> IoapicState {
        IoapicState {
            id: self.id,
            select: self.select,
            lines: self.lines,
            pending: self.pending,
            entries: self.entries.map(Entry::bits),
        }
    }

    /// An IOAPIC that continues from `state`. Nothing is sent: the owner takes over the routes
    /// by [`Ioapic::route`] and then calls [`Ioapic::resend`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidState`] names the field that no IOAPIC can hold.
    pub fn from_state(state: &IoapicState) -> Result<Self, Error> {
        let invalid = |field| Error::InvalidState {
            what: "ioapic",
            field,
        };
        if state.id > ID_MAX {
            return Err(invalid("id"));
        }
        if state.lines & !ALL_PINS != 0 {
            return Err(invalid("lines"));
        }
        let mut entries = [Entry::RESET; PINS];
        let mut may_wait = 0;
        for (pin, (entry, &bits)) in entries.iter_mut().zip(&state.entries).enumerate() {
            *entry = Entry::from_saved(bits).ok_or(invalid("entries"))?;
            may_wait |= u32::from(!entry.is_level()) << pin;
        }
        if state.pending & !may_wait != 0 {
            return Err(invalid("pending"));
        }
        Ok(Self {
            id: state.id,
            select: state.select,
            lines: state.lines,
            pending: state.pending,
            entries,
        })
    }
}
