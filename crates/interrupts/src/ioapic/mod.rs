//! The I/O APIC as a device model: 24 pins, a register window, and no KVM.
//!
//! It follows the 82093AA data sheet, with the version and the EOI register of its successors
//! (ICH family data sheets: version 20h, EOI register at offset 40h), and departs from it twice:
//!
//! - An edge on a masked pin is remembered, where the data sheet ignores it (§3.2.4, bit 16).
//!   A virtual device says a thing once; an unmasking driver finds one interrupt too many
//!   rather than one too few.
//! - The polarity bit is kept and has no effect: a line is asserted or not.

mod bus;
mod entry;
mod state;

pub use bus::{IoapicBus, PinRoute};
pub use state::IoapicState;

use entry::Entry;

/// Pins of an IOAPIC.
pub const PINS: usize = 24;

/// Guest-physical address of the first IOAPIC of a PC, which KVM's own has too.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Bytes that an IOAPIC decodes from its base address.
pub const IOAPIC_SIZE: u64 = 0x1000;

// Offsets in the window.
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const IOEOI: u64 = 0x40;

// Registers that IOREGSEL selects.
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;

const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;
const ID_SHIFT: u32 = 24;
const ID_MAX: u8 = 0xf;
const ALL_PINS: u32 = (1 << PINS) - 1;

/// An I/O APIC. Its outputs go to the [`IoapicBus`] that each call is given.
///
/// ```
/// use strata_interrupts::ioapic::Ioapic;
/// use strata_interrupts::test_utils::RecordingBus;
///
/// let mut bus = RecordingBus::default();
/// let mut ioapic = Ioapic::new();
/// // Pin 4: vector 30h to APIC 0, edge triggered, unmasked.
/// ioapic.write(0x00, &[0x18], &mut bus)?;
/// ioapic.write(0x10, &0x30u32.to_le_bytes(), &mut bus)?;
/// ioapic.set_line(4, true, &mut bus);
/// assert_eq!(bus.sent[0].data, 0x30);
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ioapic {
    id: u8,
    select: u8,
    lines: u32,
    pending: u32,
    entries: [Entry; PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// An IOAPIC after reset: id 0, every pin masked, no line asserted.
    pub const fn new() -> Self {
        Self {
            id: 0,
            select: 0,
            lines: 0,
            pending: 0,
            entries: [Entry::RESET; PINS],
        }
    }

    /// The guest reads `data.len()` bytes at `offset` of the window.
    ///
    /// The data window is read by aligned 32-bit accesses, the index register by 8, 16 or 32
    /// bits. Everything else reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match (offset, data.len()) {
            (IOREGSEL, 1 | 2 | 4) => u32::from(self.select),
            (IOWIN, 4) => self.register(),
            _ => return,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// The guest writes `data` at `offset` of the window.
    ///
    /// The data window is written by aligned 32-bit accesses, the index and the EOI register by
    /// 8, 16 or 32 bits of which the lowest 8 count. Everything else is ignored.
    ///
    /// # Errors
    ///
    /// What [`IoapicBus::route_changed`] returned.
    pub fn write<B: IoapicBus>(
        &mut self,
        offset: u64,
        data: &[u8],
        bus: &mut B,
    ) -> Result<(), B::Error> {
        match (offset, data) {
            (IOREGSEL, &[index] | &[index, _] | &[index, _, _, _]) => self.select = index,
            (IOWIN, &[a, b, c, d]) => {
                return self.set_register(u32::from_le_bytes([a, b, c, d]), bus);
            }
            (IOEOI, &[vector] | &[vector, _] | &[vector, _, _, _]) => self.eoi(vector, bus),
            _ => {}
        }
        Ok(())
    }

    /// Asserts or releases the line of `pin`. A rising line is an edge. Pins that do not exist
    /// are ignored.
    pub fn set_line<B: IoapicBus>(&mut self, pin: u8, asserted: bool, bus: &mut B) {
        let Some(entry) = self.entries.get(usize::from(pin)) else {
            return;
        };
        let bit = 1 << pin;
        let rises = asserted && self.lines & bit == 0;
        self.lines = if asserted {
            self.lines | bit
        } else {
            self.lines & !bit
        };
        if rises && !entry.is_level() {
            self.pending |= bit;
        }
        self.evaluate(pin, bus);
    }

    /// Remembers an edge of `pin` that somebody else held while the pin was masked.
    pub(crate) fn remember_edge(&mut self, pin: u8) {
        if self
            .entries
            .get(usize::from(pin))
            .is_some_and(|entry| !entry.is_level())
        {
            self.pending |= 1 << pin;
        }
    }

    /// A local APIC ended the interrupt `vector` (an EOI broadcast), or the guest wrote the EOI
    /// register. Pins that are still asserted interrupt again.
    pub fn eoi<B: IoapicBus>(&mut self, vector: u8, bus: &mut B) {
        for pin in 0..PINS as u8 {
            let entry = &mut self.entries[usize::from(pin)];
            if entry.is_level() && entry.vector() == vector {
                entry.set_remote_irr(false);
                bus.acknowledged(pin);
                self.evaluate(pin, bus);
            }
        }
    }

    /// What `pin`'s entry programs; `None` where there is no such pin.
    pub fn route(&self, pin: u8) -> Option<PinRoute> {
        let entry = self.entries.get(usize::from(pin))?;
        Some(PinRoute {
            message: entry.message(),
            masked: entry.is_masked(),
        })
    }

    /// Sends what waits at unmasked pins, and every level that is asserted, whether or not it was
    /// accepted before: for a restore after which an EOI may be missing. An interrupt too many is
    /// harmless to handlers of level-triggered interrupts, one too few silences the pin for ever.
    pub fn resend<B: IoapicBus>(&mut self, bus: &mut B) {
        for pin in 0..PINS as u8 {
            self.entries[usize::from(pin)].set_remote_irr(false);
            self.evaluate(pin, bus);
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            // The arbitration id follows the APIC id (§3.2.3); nothing arbitrates here.
            IOAPICID | IOAPICARB => u32::from(self.id) << ID_SHIFT,
            IOAPICVER => VERSION,
            index => match selected_pin(index) {
                Some((pin, half)) => {
                    let entry = self.entries[usize::from(pin)];
                    let send_pending = !entry.is_masked() && self.waits(pin);
                    (entry.read(send_pending) >> half.shift()) as u32
                }
                None => 0,
            },
        }
    }

    fn set_register<B: IoapicBus>(&mut self, value: u32, bus: &mut B) -> Result<(), B::Error> {
        if self.select == IOAPICID {
            self.id = (value >> ID_SHIFT) as u8 & ID_MAX;
        }
        match selected_pin(self.select) {
            Some((pin, half)) => self.set_entry_half(pin, half, value, bus),
            None => Ok(()),
        }
    }

    fn set_entry_half<B: IoapicBus>(
        &mut self,
        pin: u8,
        half: Half,
        value: u32,
        bus: &mut B,
    ) -> Result<(), B::Error> {
        let before = self.route(pin);
        let entry = &mut self.entries[usize::from(pin)];
        let kept = entry.bits() & !(u64::from(u32::MAX) << half.shift());
        *entry = entry.written(kept | u64::from(value) << half.shift());
        if entry.is_level() {
            self.pending &= !(1 << pin);
        }
        match self.route(pin) {
            Some(route) if before != Some(route) => bus.route_changed(pin, route)?,
            _ => {}
        }
        self.evaluate(pin, bus);
        Ok(())
    }

    /// Sends `pin`'s interrupt if it waits and may go.
    fn evaluate<B: IoapicBus>(&mut self, pin: u8, bus: &mut B) {
        let waits = self.waits(pin);
        let entry = &mut self.entries[usize::from(pin)];
        if !waits || entry.is_masked() {
            return;
        }
        if entry.message().is_some_and(|message| bus.send(message)) {
            if entry.is_level() {
                entry.set_remote_irr(true);
            } else {
                self.pending &= !(1 << pin);
            }
        }
    }

    /// Whether `pin` has an interrupt that no local APIC has accepted yet.
    fn waits(&self, pin: u8) -> bool {
        let entry = self.entries[usize::from(pin)];
        if entry.is_level() {
            self.lines & 1 << pin != 0 && !entry.remote_irr()
        } else {
            self.pending & 1 << pin != 0
        }
    }
}

/// The half of an entry that one register shows.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    const fn shift(self) -> u32 {
        match self {
            Self::Low => 0,
            Self::High => 32,
        }
    }
}

fn selected_pin(index: u8) -> Option<(u8, Half)> {
    let register = index.checked_sub(IOREDTBL)?;
    let half = if register & 1 == 0 {
        Half::Low
    } else {
        Half::High
    };
    let pin = register >> 1;
    (usize::from(pin) < PINS).then_some((pin, half))
}
