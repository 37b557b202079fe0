//! One 64-bit redirection table entry (82093AA data sheet §3.2.4).

use crate::MsiMessage;

const DELIVERY_MODE_SHIFT: u32 = 8;
const DELIVERY_MODE_MASK: u64 = 0b111;
const LOGICAL_DESTINATION: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;

/// Bits that the guest may write: not delivery status, remote IRR and the reserved bits 17 to 55.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

// SDM volume 3, "Message Address Register Format" and "Message Data Register Format".
const MSI_ADDRESS_BASE: u64 = 0xfee0_0000;
const MSI_DESTINATION_SHIFT: u32 = 12;
const MSI_LOGICAL_DESTINATION: u64 = 1 << 2;
const MSI_LEVEL_ASSERT: u32 = 1 << 14;
const MSI_LEVEL_TRIGGERED: u32 = 1 << 15;

/// How a local APIC is to take the interrupt, as encoded in bits 8 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    ExtInt,
    Reserved,
}

/// A redirection table entry; the guest's writes reach only its writable bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// All interrupts are masked at reset (§3.2.4, bit 16's default).
    pub(super) const RESET: Self = Self(MASKED);

    /// Takes an entry as saved; `None` where it holds bits that no entry can have.
    pub(super) fn from_saved(bits: u64) -> Option<Self> {
        let entry = Self(bits);
        let possible = bits & !(WRITABLE | REMOTE_IRR) == 0;
        (possible && (entry.is_level() || !entry.remote_irr())).then_some(entry)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// The entry as the guest reads it.
    pub(super) const fn read(self, send_pending: bool) -> u64 {
        self.0 | if send_pending { DELIVERY_STATUS } else { 0 }
    }

    /// The entry after the guest wrote `value` over it.
    ///
    /// Remote IRR is defined for level-triggered interrupts only (§3.2.4, bit 14). That it is
    /// lost by a turn to edge is what Linux relies on to clear it without an EOI register.
    pub(super) fn written(self, value: u64) -> Self {
        let entry = Self((value & WRITABLE) | (self.0 & REMOTE_IRR));
        if entry.is_level() {
            entry
        } else {
            Self(entry.0 & !REMOTE_IRR)
        }
    }

    pub(super) const fn vector(self) -> u8 {
        self.0 as u8
    }

    pub(super) const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub(super) const fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self, value: bool) {
        self.0 = (self.0 & !REMOTE_IRR) | if value { REMOTE_IRR } else { 0 };
    }

    /// Whether the interrupt stays until its EOI. The modes without an EOI count as edge
    /// triggered whatever the trigger bit says (§3.2.4, bits 8 to 10).
    pub(super) fn is_level(self) -> bool {
        self.0 & LEVEL_TRIGGERED != 0 && self.has_vector()
    }

    /// The message this entry sends; `None` while the guest programs no valid interrupt.
    pub(super) fn message(self) -> Option<MsiMessage> {
        let mode = self.delivery_mode();
        // Vectors range from 10h to FEh (§3.2.4, bits 0 to 7).
        let valid = match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                (0x10..=0xfe).contains(&self.vector())
            }
            DeliveryMode::Reserved => false,
            _ => true,
        };
        valid.then(|| self.encode())
    }

    fn encode(self) -> MsiMessage {
        let logical = self.0 & LOGICAL_DESTINATION != 0;
        let mode = (self.0 >> DELIVERY_MODE_SHIFT & DELIVERY_MODE_MASK) as u32;
        MsiMessage {
            address: MSI_ADDRESS_BASE
                | (self.0 >> DESTINATION_SHIFT) << MSI_DESTINATION_SHIFT
                | if logical { MSI_LOGICAL_DESTINATION } else { 0 },
            data: u32::from(self.vector())
                | mode << DELIVERY_MODE_SHIFT
                | if self.is_level() {
                    MSI_LEVEL_TRIGGERED | MSI_LEVEL_ASSERT
                } else {
                    0
                },
        }
    }

    fn has_vector(self) -> bool {
        matches!(
            self.delivery_mode(),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        )
    }

    const fn delivery_mode(self) -> DeliveryMode {
        match self.0 >> DELIVERY_MODE_SHIFT & DELIVERY_MODE_MASK {
            0b000 => DeliveryMode::Fixed,
            0b001 => DeliveryMode::LowestPriority,
            0b010 => DeliveryMode::Smi,
            0b100 => DeliveryMode::Nmi,
            0b101 => DeliveryMode::Init,
            0b111 => DeliveryMode::ExtInt,
            _ => DeliveryMode::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reaches_every_writable_bit_and_no_other() {
        for bit in 0..64 {
            let written = Entry(0).written(1 << bit).bits();
            let writable = matches!(bit, 0..=11 | 13 | 15 | 16 | 56..=63);
            assert_eq!(written, if writable { 1 << bit } else { 0 }, "bit {bit}");
        }
    }

    #[test]
    fn every_mode_trigger_and_vector_is_encoded_as_the_sdm_says() {
        for bits in 0u64..1 << 16 {
            let entry = Entry(0).written(bits | 0xa5 << 56);
            let (mode, vector) = (bits >> 8 & 7, bits as u8);
            let has_vector = mode < 2;
            let level = has_vector && bits & 1 << 15 != 0;
            let valid = match mode {
                0 | 1 => (0x10..=0xfe).contains(&vector),
                3 | 6 => false,
                _ => true,
            };
            let logical = if bits & 1 << 11 != 0 { 4 } else { 0 };
            let expected = valid.then_some(MsiMessage {
                address: 0xfeea_5000 | logical,
                data: (bits as u32 & 0x7ff) | if level { 0xc000 } else { 0 },
            });
            assert_eq!(entry.message(), expected, "entry {bits:#x}");
            assert_eq!(entry.is_level(), level, "entry {bits:#x}");
        }
    }

    #[test]
    fn a_turn_to_edge_loses_remote_irr() {
        let mut entry = Entry(0).written(LEVEL_TRIGGERED | 0x40);
        entry.set_remote_irr(true);
        assert!(entry.written(LEVEL_TRIGGERED | MASKED | 0x41).remote_irr());
        assert!(!entry.written(0x40).remote_irr());
    }

    #[test]
    fn a_saved_entry_is_refused_where_no_entry_can_hold_its_bits() {
        assert!(Entry::from_saved(MASKED | 0x30).is_some());
        assert!(Entry::from_saved(LEVEL_TRIGGERED | REMOTE_IRR | 0x30).is_some());
        assert!(
            Entry::from_saved(REMOTE_IRR | 0x30).is_none(),
            "remote IRR on an edge"
        );
        assert!(Entry::from_saved(DELIVERY_STATUS).is_none());
        assert!(Entry::from_saved(1 << 17).is_none());
        assert!(Entry::from_saved(1 << 55).is_none());
    }
}
