//! The PCI bus and what is in its slots, wired to KVM.

mod hot_plug;
mod kvm;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_ioctls::VmFd;
use strata_interrupts::Controller;
use strata_memory::GuestMemory;
use strata_pci::{Bar, BarKind, Bus};
use strata_virtio::{Device, VirtioPci};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vmm_sys_util::eventfd::EventFd;

pub(super) use self::hot_plug::HotPlugPorts;
pub use self::hot_plug::Removed;
use self::hot_plug::Slots;
use self::kvm::{Kicks, Vectors};
use crate::arch;
use crate::error::{Chain, Error};

/// The bus, and what its devices need of the machine.
pub struct Pci {
    bus: Arc<Bus>,
    vm: Arc<VmFd>,
    controller: Controller,
    memory: GuestMemory,
    cards: Mutex<Vec<Card>>,
    hot_plug: Option<Slots>,
    /// Set once the guest runs, and has to be told of new devices.
    started: OnceLock<()>,
}

/// A virtio device in its slot.
struct Card {
    id: String,
    slot: u8,
    device: Arc<VirtioPci>,
}

impl Card {
    /// Whether `function` is this one.
    fn is(&self, function: &Arc<dyn strata_pci::Function>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.device), Arc::as_ptr(function))
    }
}

/// What is in a slot, for whoever asks.
pub struct Function {
    /// The slot.
    pub slot: u8,
    /// The device's name; none for the host bridge.
    pub id: Option<String>,
    /// The first 64 bytes of its configuration space (PCI Local Bus 3.0, 6.1).
    pub header: [u8; 64],
    /// Its BARs.
    pub regions: Vec<Region>,
}

/// A BAR of a function.
pub struct Region {
    /// Its index: of its first register, 0 to 5.
    pub bar: u8,
    /// Whether it may be above 4 GiB.
    pub is_64: bool,
    /// Bytes.
    pub size: u64,
    /// Guest-physical address; none while its memory is not decoded.
    pub address: Option<u64>,
}

impl Region {
    fn all(function: &dyn strata_pci::Function) -> Vec<Self> {
        let mut regions = Vec::new();
        function.bars(&mut |bar, Bar { kind, size }| {
            regions.push(Self {
                bar,
                is_64: kind == BarKind::Memory64,
                size,
                address: None,
            });
        });
        function.ranges(&mut |range| {
            let region = regions.iter_mut().find(|region| region.bar == range.bar);
            if let Some(region) = region {
                region.address = Some(range.base);
            }
        });
        regions
    }
}

impl Pci {
    /// A bus with nothing but its host bridge. With `hot_plug` its slots can be filled and emptied
    /// while the guest runs.
    ///
    /// # Errors
    /// [`Error::Pci`] when its windows are no windows; [`Error::Interrupts`] and [`Error::Host`] when
    /// hot-plug's interrupt and event can not be had.
    pub fn new(
        vm: Arc<VmFd>,
        controller: Controller,
        memory: GuestMemory,
        hot_plug: bool,
    ) -> Result<Self, Error> {
        let bus = Arc::new(Bus::new(arch::PCI_LAYOUT)?);
        let slots = || Slots::new(Arc::clone(&bus), &controller);
        let hot_plug = hot_plug.then(slots).transpose()?;
        Ok(Self {
            bus,
            vm,
            controller,
            memory,
            cards: Mutex::default(),
            hot_plug,
            started: OnceLock::new(),
        })
    }

    /// The first configuration port, and how many there are.
    pub(super) const PORTS: (u16, u64) = (0xcf8, 8);

    /// Puts a virtio device into the lowest free slot, and tells the guest once it has
    /// [`started`](Self::start).
    ///
    /// # Errors
    /// [`Error::TakenId`], [`Error::NoHotPlug`], [`Error::Interrupts`], [`Error::Virtio`],
    /// [`Error::Pci`]. The bus is then as before.
    pub fn add(&self, id: &str, device: Box<dyn Device>) -> Result<(), Error> {
        self.check_free(id)?;
        // A vector for each queue, and one for configuration changes.
        let vectors = Vectors::new(&self.controller, device.queue_sizes().len() + 1)?;
        let binder = Arc::new(Kicks(Arc::clone(&self.vm)));
        let device = VirtioPci::new(device, self.memory.clone(), Arc::new(vectors), binder)?;
        let device = Arc::new(device);
        // Held until the card is there: the guest may eject it at once.
        let mut cards = self.cards();
        let slot = match self.started.get() {
            None => self.bus.add(device.clone())?,
            Some(()) => self.slots()?.add(device.clone())?,
        };
        log::debug!("{id} is in PCI slot {slot}");
        cards.push(Card {
            id: id.to_owned(),
            slot,
            device,
        });
        Ok(())
    }

    /// Whether no device has this name.
    ///
    /// # Errors
    /// [`Error::TakenId`].
    pub fn check_free(&self, id: &str) -> Result<(), Error> {
        match self.cards().iter().any(|card| card.id == id) {
            true => Err(Error::TakenId(id.to_owned())),
            false => Ok(()),
        }
    }

    /// From now on the guest runs.
    pub fn start(&self) {
        // A machine starts once.
        let _ = self.started.set(());
    }

    /// Asks the guest to let go of a device. What it lets go of is in [`removed`](Self::removed).
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::NoHotPlug`], [`Error::Removing`] for a device that the guest has
    /// let go of already, [`Error::Pci`].
    pub fn request_removal(&self, id: &str) -> Result<(), Error> {
        let cards = self.cards();
        let card = cards.iter().find(|card| card.id == id);
        let card = card.ok_or_else(|| Error::NoDevice(id.to_owned()))?;
        let slots = self.slots()?;
        // The slot may have another device by now, but for this call: this thread fills slots.
        match self.bus.function(card.slot) {
            Some(function) if card.is(&function) => slots.request_removal(card.slot),
            _ => Err(Error::Removing(id.to_owned())),
        }
    }

    /// The devices that the guest has let go of since the last call: they are off the bus, and their
    /// workers end. Each is to be stopped, by a thread that may wait, and [forgotten](Self::forget).
    pub fn removed(&self) -> Vec<Removed> {
        let Some(slots) = &self.hot_plug else {
            return Vec::new();
        };
        let cards = self.cards();
        let removed = slots.take_removed().into_iter().filter_map(|function| {
            let card = cards.iter().find(|card| card.is(&function))?;
            Some(Removed {
                id: card.id.clone(),
                device: Arc::clone(&card.device),
            })
        });
        removed.collect()
    }

    /// Gives a device's name back, and all else that it still has.
    pub fn forget(&self, id: &str) {
        let mut cards = self.cards();
        let position = cards.iter().position(|card| card.id == id);
        let card = position.map(|position| cards.swap_remove(position));
        drop(cards);
        drop(card);
    }

    /// Readable when devices were removed, and when the guest was told of something. None without
    /// hot-plug.
    pub fn hot_plug_event(&self) -> Option<&EventFd> {
        self.hot_plug.as_ref().map(Slots::event)
    }

    /// Tells the guest once more what it has not looked at, and says whether there was something.
    pub fn remind(&self) -> bool {
        self.hot_plug.as_ref().is_some_and(Slots::remind)
    }

    /// Whether there is something that the guest has not looked at.
    pub fn is_unseen(&self) -> bool {
        self.hot_plug.as_ref().is_some_and(Slots::is_unseen)
    }

    /// What is on the bus.
    pub fn functions(&self) -> Vec<Function> {
        let cards = self.cards();
        let present = self.bus.present();
        let slots = (0..32_u8).filter(|slot| present >> slot & 1 == 1);
        let functions = slots.filter_map(|slot| {
            let function = self.bus.function(slot)?;
            let mut header = [0; 64];
            for (at, word) in (0_u16..).step_by(4).zip(header.chunks_mut(4)) {
                function.read_config(at, word);
            }
            Some(Function {
                slot,
                id: cards
                    .iter()
                    .find(|card| card.is(&function))
                    .map(|card| card.id.clone()),
                header,
                regions: Region::all(&*function),
            })
        });
        functions.collect()
    }

    /// Resets the bus and all that is on it. The vCPUs are paused.
    ///
    /// # Errors
    /// [`Error::Pci`].
    pub fn reset(&self) -> Result<(), Error> {
        if let Some(slots) = &self.hot_plug {
            slots.reset();
        }
        Ok(self.bus.reset()?)
    }

    /// Finishes what the devices have in flight, and parks their workers: nothing moves between them
    /// and their host ends any more. The vCPUs are paused.
    pub fn pause(&self) {
        for card in self.cards().iter() {
            // A worker that is gone has nothing in flight; the others are parked all the same.
            if let Err(error) = card.device.pause() {
                log::error!("{} is not paused: {}", card.id, Chain(&error));
            }
        }
    }

    /// Lets the devices' workers go on.
    pub fn resume(&self) {
        for card in self.cards().iter() {
            if let Err(error) = card.device.resume() {
                log::error!("{} does not go on: {}", card.id, Chain(&error));
            }
        }
    }

    /// Ends the devices' workers: nothing reads or writes guest memory for them any more.
    pub fn stop(&self) {
        let cards = std::mem::take(&mut *self.cards());
        for card in cards {
            log::debug!("{} stops", card.id);
            card.device.stop();
        }
    }

    /// Reads where there is no memory; says whether something is there.
    pub(super) fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        match arch::ecam_offset(addr) {
            Some(offset) => {
                self.bus.read_ecam(offset, data);
                true
            }
            None => self.bus.read_memory(addr, data),
        }
    }

    /// Writes where there is no memory; says whether something is there.
    pub(super) fn write(&self, addr: u64, data: &[u8]) -> bool {
        match arch::ecam_offset(addr) {
            Some(offset) => {
                self.bus.write_ecam(offset, data);
                true
            }
            None => self.bus.write_memory(addr, data),
        }
    }

    fn slots(&self) -> Result<&Slots, Error> {
        self.hot_plug.as_ref().ok_or(Error::NoHotPlug)
    }

    fn cards(&self) -> MutexGuard<'_, Vec<Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DevicePio for Pci {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.bus.read_port(offset, data);
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.bus.write_port(offset, data);
    }
}
