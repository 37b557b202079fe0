//! The root bus: 32 slots, and the ways to them.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::allocator::Allocator;
use crate::error::Error;
use crate::function::Function;
use crate::host_bridge::HostBridge;
use crate::slot::Slot;

/// CONFIG_ADDRESS (PCI Local Bus 3.0, 3.2.2.3.2): bit 31 enables, then bus, device, function and
/// register.
const ENABLE: u32 = 1 << 31;

const SLOTS: u8 = 32;

/// Where in the guest's physical address space the bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusLayout {
    /// The ECAM window of bus 0, 1 MiB, aligned to it and below 4 GiB.
    pub ecam: u64,
    /// Where 32-bit BARs go: below 4 GiB.
    pub mem32: Range<u64>,
    /// Where 64-bit BARs go. Below 2³⁹ every CPU model reaches it.
    pub mem64: Range<u64>,
}

impl BusLayout {
    /// Bytes of the ECAM window of one bus.
    pub const ECAM_SIZE: u64 = 1 << 20;

    fn check(&self) -> Result<(), Error> {
        const PAGE: u64 = 4096;
        let window = |window, range: &Range<u64>, limit: u64| {
            let Range { start, end } = *range;
            let aligned = start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE);
            if start < end && end <= limit && aligned {
                Ok(())
            } else {
                Err(Error::Window { window, start, end })
            }
        };
        window("32-bit", &self.mem32, 1 << 32)?;
        window("64-bit", &self.mem64, 1 << 39)?;
        let start = self.ecam;
        let end = start.saturating_add(Self::ECAM_SIZE);
        if start.is_multiple_of(Self::ECAM_SIZE) && end <= 1 << 32 {
            Ok(())
        } else {
            let window = "ECAM";
            Err(Error::Window { window, start, end })
        }
    }
}

#[derive(Debug)]
struct Windows {
    mem32: Allocator,
    mem64: Allocator,
    /// What each slot has.
    given: Vec<(u8, u64)>,
}

/// PCI bus 0, with a host bridge in slot 0.
///
/// Accesses of vCPUs find their function without a lock that is shared between functions.
/// Notifications of virtio devices do not come here at all: they signal ioeventfds.
pub struct Bus {
    layout: BusLayout,
    slots: [Slot; 32],
    /// A bit for each slot with a function.
    present: AtomicU32,
    windows: Mutex<Windows>,
    /// CONFIG_ADDRESS. Two vCPUs that use it at once without a lock of their own disturb each
    /// other, as on a machine.
    address: AtomicU32,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("layout", &self.layout)
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus with its host bridge.
    ///
    /// # Errors
    /// [`Error::Window`].
    pub fn new(layout: BusLayout) -> Result<Self, Error> {
        layout.check()?;
        let bus = Self {
            slots: Default::default(),
            present: AtomicU32::new(0),
            windows: Mutex::new(Windows {
                mem32: Allocator::new(layout.mem32.clone()),
                mem64: Allocator::new(layout.mem64.clone()),
                given: Vec::new(),
            }),
            address: AtomicU32::new(0),
            layout,
        };
        bus.add_at(0, Arc::new(HostBridge::new()))?;
        Ok(bus)
    }

    /// Where the bus is.
    pub fn layout(&self) -> &BusLayout {
        &self.layout
    }

    /// Puts a function into the lowest free slot, which is returned.
    ///
    /// # Errors
    /// [`Error::NoFreeSlot`], and as [`add_at`](Self::add_at).
    pub fn add(&self, function: Arc<dyn Function>) -> Result<u8, Error> {
        let mut windows = self.windows();
        let slot = (!self.present.load(Ordering::Acquire)).trailing_zeros();
        let slot = u8::try_from(slot).unwrap_or(u8::MAX);
        if slot >= SLOTS {
            return Err(Error::NoFreeSlot);
        }
        self.insert(&mut windows, slot, function)?;
        Ok(slot)
    }

    /// Puts a function into `slot` and gives its BARs addresses, as firmware would: it sizes them
    /// and leaves memory decode off.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::SlotTaken`], [`Error::NoRoom`]. The bus is then as before.
    pub fn add_at(&self, slot: u8, function: Arc<dyn Function>) -> Result<(), Error> {
        self.insert(&mut self.windows(), slot, function)
    }

    /// Takes the function out of `slot`, if there is one. Accesses that other vCPUs have begun may
    /// still be on their way to it.
    pub fn remove(&self, slot: u8) -> Option<Arc<dyn Function>> {
        let mut windows = self.windows();
        let function = self.slots.get(usize::from(slot))?.set(None)?;
        self.present.fetch_and(!(1 << slot), Ordering::Release);
        windows.give_back(slot);
        drop(windows);
        function.removed();
        Some(function)
    }

    /// Resets every function, and gives all BARs addresses anew, as a machine's reset and its
    /// firmware do. No vCPU runs meanwhile.
    ///
    /// # Errors
    /// [`Error::NoRoom`] for BARs that only fit in the order in which their functions came; that
    /// function is then without addresses.
    pub fn reset(&self) -> Result<(), Error> {
        let mut windows = self.windows();
        self.address.store(0, Ordering::Relaxed);
        let slots = || (0..SLOTS).filter_map(|slot| Some((slot, self.function(slot)?)));
        for (slot, function) in slots() {
            function.reset();
            windows.give_back(slot);
        }
        let mut result = Ok(());
        for (slot, function) in slots() {
            result = result.and(windows.assign(slot, &*function));
            // What it decoded before the reset it decodes no more.
            self.slot(slot).set(Some(function));
        }
        result
    }

    /// A bit for each slot that has a function; bit 0 is the host bridge.
    pub fn present(&self) -> u32 {
        self.present.load(Ordering::Acquire)
    }

    /// The function in `slot`.
    pub fn function(&self, slot: u8) -> Option<Arc<dyn Function>> {
        self.slots.get(usize::from(slot))?.function()
    }

    /// Reads at `offset` of the ECAM window (PCI Express 4.0, 7.2.2). What is not there reads as
    /// ones.
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        match self.ecam_slot(offset) {
            Some((slot, register)) => self.slot(slot).read_config(register, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `offset` of the ECAM window.
    pub fn write_ecam(&self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = self.ecam_slot(offset) {
            self.slot(slot).write_config(register, data);
        }
    }

    /// Reads `offset` bytes after port 0xcf8: CONFIG_ADDRESS, and CONFIG_DATA from 4.
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        match offset {
            0..4 => {
                let address = self.address.load(Ordering::Relaxed).to_le_bytes();
                let bytes = address.iter().skip(offset.into());
                for (to, from) in data.iter_mut().zip(bytes) {
                    *to = *from;
                }
            }
            4..8 => {
                if let Some((slot, register)) = self.port_slot(offset) {
                    self.slot(slot).read_config(register, data);
                }
            }
            _ => {}
        }
    }

    /// Writes `offset` bytes after port 0xcf8. CONFIG_ADDRESS is written as a whole or not at all.
    pub fn write_port(&self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self
                .address
                .store(u32::from_le_bytes([a, b, c, d]), Ordering::Relaxed),
            (4..8, data) => {
                if let Some((slot, register)) = self.port_slot(offset) {
                    self.slot(slot).write_config(register, data);
                }
            }
            _ => {}
        }
    }

    /// Reads at a guest-physical address, and says whether a BAR decodes it.
    pub fn read_memory(&self, addr: u64, data: &mut [u8]) -> bool {
        let Some((function, bar, offset)) = self.decode(addr) else {
            return false;
        };
        function.read_bar(bar, offset, data);
        true
    }

    /// Writes at a guest-physical address, and says whether a BAR decodes it.
    pub fn write_memory(&self, addr: u64, data: &[u8]) -> bool {
        let Some((function, bar, offset)) = self.decode(addr) else {
            return false;
        };
        function.write_bar(bar, offset, data);
        true
    }

    fn slot(&self, slot: u8) -> &Slot {
        &self.slots[usize::from(slot % SLOTS)]
    }

    /// Looks through the slots that are taken: at most 32 with 6 BARs each, some ten nanoseconds
    /// beside an exit of microseconds.
    fn decode(&self, addr: u64) -> Option<(Arc<dyn Function>, u8, u64)> {
        let mut present = self.present.load(Ordering::Acquire);
        while present != 0 {
            let index = present.trailing_zeros();
            present &= present - 1;
            let slot = self.slots.get(index as usize)?;
            if let Some((bar, offset)) = slot.find(addr) {
                return Some((slot.function()?, bar, offset));
            }
        }
        None
    }

    /// The slot and the register of an ECAM offset; `None` for another bus or function.
    fn ecam_slot(&self, offset: u64) -> Option<(u8, u16)> {
        let function = offset >> 12;
        if function & 7 != 0 {
            return None;
        }
        let slot = u8::try_from(function >> 3)
            .ok()
            .filter(|slot| *slot < SLOTS)?;
        Some((slot, (offset & 0xfff) as u16))
    }

    fn port_slot(&self, offset: u16) -> Option<(u8, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        // Bus 0 and function 0.
        if address & ENABLE == 0 || address & 0x00ff_0700 != 0 {
            return None;
        }
        let slot = (address >> 11 & 0x1f) as u8;
        Some((slot, (address & 0xfc) as u16 + (offset - 4)))
    }

    fn insert(
        &self,
        windows: &mut Windows,
        slot: u8,
        function: Arc<dyn Function>,
    ) -> Result<(), Error> {
        let place = self
            .slots
            .get(usize::from(slot))
            .ok_or(Error::NoSuchSlot { slot })?;
        if place.function().is_some() {
            return Err(Error::SlotTaken { slot });
        }
        if let Err(error) = windows.assign(slot, &*function) {
            windows.give_back(slot);
            return Err(error);
        }
        place.set(Some(function));
        self.present.fetch_or(1 << slot, Ordering::Release);
        Ok(())
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Windows {
    /// Gives every BAR of `function` an address, by the registers that a guest would use.
    fn assign(&mut self, slot: u8, function: &dyn Function) -> Result<(), Error> {
        let mut index = 0_u16;
        while index < 6 {
            let register = 0x10 + index * 4;
            let low = size_register(function, register);
            let is_64 = low & 0b111 == 0b100;
            let high = if is_64 && index < 5 {
                size_register(function, register + 4)
            } else {
                u32::MAX
            };
            index += 1 + u16::from(is_64);
            if low == 0 || low & 1 != 0 {
                continue;
            }
            let size = (!(u64::from(low & !0xf) | u64::from(high) << 32)).wrapping_add(1);
            let (allocator, window) = if is_64 {
                (&mut self.mem64, "64-bit")
            } else {
                (&mut self.mem32, "32-bit")
            };
            let base = allocator.take(size).ok_or(Error::NoRoom { size, window })?;
            self.given.push((slot, base));
            function.write_config(register, &(base as u32).to_le_bytes());
            if is_64 {
                function.write_config(register + 4, &((base >> 32) as u32).to_le_bytes());
            }
        }
        Ok(())
    }

    fn give_back(&mut self, slot: u8) {
        let (mem32, mem64) = (&mut self.mem32, &mut self.mem64);
        self.given.retain(|(owner, base)| {
            if *owner == slot {
                mem32.give_back(*base);
                mem64.give_back(*base);
            }
            *owner != slot
        });
    }
}

/// What a register reads after ones were written to it (PCI Local Bus 3.0, 6.2.5.1).
fn size_register(function: &dyn Function, register: u16) -> u32 {
    function.write_config(register, &u32::MAX.to_le_bytes());
    let mut value = [0; 4];
    function.read_config(register, &mut value);
    u32::from_le_bytes(value)
}
