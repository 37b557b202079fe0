//! Adding and removing functions while the machine runs, with the guest told by ACPI.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bus::Bus;
use crate::error::Error;
use crate::function::Function;

/// What hot-plug asks of the machine.
pub trait HotPlugEvents: Send + Sync {
    /// Raises the event that runs the guest's scan of the slots, by an edge.
    fn notify(&self);

    /// The guest has let go of the function that was in `slot`, which is off the bus now. Called on
    /// the thread of a vCPU: whatever takes time is for another thread.
    fn ejected(&self, slot: u8, function: Arc<dyn Function>);
}

/// The slots whose change the guest has not yet seen: plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HotPlugState {
    /// A bit for each slot that was filled.
    pub inserted: u32,
    /// A bit for each slot whose removal was asked for.
    pub removing: u32,
}

/// The registers between ACPI's methods and the bus: three double words of I/O ports.
///
/// | offset | access | |
/// |---|---|---|
/// | 0 | read | slots that were filled, a bit each; reading clears them |
/// | 4 | read | slots whose removal is asked for; reading clears them |
/// | 8 | write | ejects the functions of these slots |
///
/// The methods are those of [`acpi::RootBus`](crate::acpi::RootBus). A scan costs two exits.
pub struct HotPlug {
    bus: Arc<Bus>,
    /// The slots that can be used.
    slots: u32,
    inserted: AtomicU32,
    removing: AtomicU32,
    events: Arc<dyn HotPlugEvents>,
}

impl std::fmt::Debug for HotPlug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotPlug")
            .field("slots", &self.slots)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl HotPlug {
    /// How many ports the registers take.
    pub const PORTS: u16 = 12;

    /// Hot-plug for those slots of `bus` that have a bit in `slots`, but never the host bridge's.
    pub fn new(bus: Arc<Bus>, slots: u32, events: Arc<dyn HotPlugEvents>) -> Self {
        Self {
            bus,
            slots: slots & !1,
            inserted: AtomicU32::new(0),
            removing: AtomicU32::new(0),
            events,
        }
    }

    /// The slots that can be used.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Puts a function into the lowest free slot that has hot-plug, tells the guest, and returns
    /// the slot.
    ///
    /// # Errors
    /// [`Error::NoFreeSlot`], [`Error::NoRoom`].
    pub fn add(&self, function: Arc<dyn Function>) -> Result<u8, Error> {
        let mut free = self.slots & !self.bus.present();
        while free != 0 {
            let slot = free.trailing_zeros() as u8;
            free &= free - 1;
            match self.bus.add_at(slot, Arc::clone(&function)) {
                // Somebody else was faster.
                Err(Error::SlotTaken { .. }) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    // It was for the one before: the guest ejected that while it was asked to.
                    self.removing.fetch_and(!(1 << slot), Ordering::Release);
                    self.inserted.fetch_or(1 << slot, Ordering::Release);
                    self.events.notify();
                    return Ok(slot);
                }
            }
        }
        Err(Error::NoFreeSlot)
    }

    /// Asks the guest to let go of the function in `slot`. When it has, and only then,
    /// [`HotPlugEvents::ejected`] is called. Asking again is harmless.
    ///
    /// # Errors
    /// [`Error::NotHotPluggable`], [`Error::SlotEmpty`].
    pub fn request_removal(&self, slot: u8) -> Result<(), Error> {
        let bit = 1_u32.checked_shl(slot.into()).unwrap_or(0);
        if self.slots & bit == 0 {
            return Err(Error::NotHotPluggable { slot });
        }
        if self.bus.present() & bit == 0 {
            return Err(Error::SlotEmpty { slot });
        }
        self.removing.fetch_or(bit, Ordering::Release);
        self.events.notify();
        Ok(())
    }

    /// The guest reads a register. Whatever is not a double word at 0 or 4 reads as zeroes.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let Ok(data) = <&mut [u8; 4]>::try_from(data) else {
            return;
        };
        let slots = match offset {
            0 => self.inserted.swap(0, Ordering::Acquire),
            4 => self.removing.swap(0, Ordering::Acquire),
            _ => 0,
        };
        *data = slots.to_le_bytes();
    }

    /// The guest writes a register. Whatever is not a double word at 8 has no effect. A guest may
    /// eject what it was not asked to.
    pub fn write(&self, offset: u16, data: &[u8]) {
        let (8, Ok(data)) = (offset, <[u8; 4]>::try_from(data)) else {
            return;
        };
        let mut slots = u32::from_le_bytes(data) & self.slots;
        while slots != 0 {
            let slot = slots.trailing_zeros() as u8;
            let bit = slots & slots.wrapping_neg();
            slots &= !bit;
            self.inserted.fetch_and(!bit, Ordering::Release);
            self.removing.fetch_and(!bit, Ordering::Release);
            if let Some(function) = self.bus.remove(slot) {
                self.events.ejected(slot, function);
            }
        }
    }

    /// What the guest has not yet seen, to save it.
    pub fn state(&self) -> HotPlugState {
        HotPlugState {
            inserted: self.inserted.load(Ordering::Acquire),
            removing: self.removing.load(Ordering::Acquire),
        }
    }

    /// Continues as `state` says, on a bus with the same functions; slots without hot-plug are left
    /// out.
    pub fn set_state(&self, state: &HotPlugState) {
        self.inserted
            .store(state.inserted & self.slots, Ordering::Release);
        self.removing
            .store(state.removing & self.slots, Ordering::Release);
    }
}
