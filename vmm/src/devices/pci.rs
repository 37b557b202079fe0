//! The PCI bus and what is in its slots, wired to KVM.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use strata_interrupts::{Controller, Interrupt};
use strata_memory::GuestMemory;
use strata_pci::{Bus, MsiError, MsiMessage, MsiSink};
use strata_virtio::{Device, EventBinder, VirtioPci};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vmm_sys_util::eventfd::EventFd;

use crate::arch;
use crate::error::Error;

/// The bus, and what its devices need of the machine.
pub struct Pci {
    bus: Bus,
    vm: Arc<VmFd>,
    controller: Controller,
    memory: GuestMemory,
    cards: Mutex<Vec<Card>>,
}

/// A virtio device in its slot.
struct Card {
    id: String,
    device: Arc<VirtioPci>,
}

impl Pci {
    /// A bus with nothing but its host bridge.
    ///
    /// # Errors
    /// [`Error::Pci`] when its windows are no windows.
    pub fn new(vm: Arc<VmFd>, controller: Controller, memory: GuestMemory) -> Result<Self, Error> {
        Ok(Self {
            bus: Bus::new(arch::PCI_LAYOUT)?,
            vm,
            controller,
            memory,
            cards: Mutex::default(),
        })
    }

    /// The first configuration port, and how many there are.
    pub(super) const PORTS: (u16, u64) = (0xcf8, 8);

    /// Puts a virtio device into the lowest free slot.
    ///
    /// # Errors
    /// [`Error::Interrupts`], [`Error::Virtio`], [`Error::Pci`].
    pub fn add(&self, id: &str, device: Box<dyn Device>) -> Result<(), Error> {
        // A vector for each queue, and one for configuration changes.
        let vectors = Vectors::new(&self.controller, device.queue_sizes().len() + 1)?;
        let binder = Arc::new(Kicks(Arc::clone(&self.vm)));
        let device = VirtioPci::new(device, self.memory.clone(), Arc::new(vectors), binder)?;
        let device = Arc::new(device);
        let slot = self.bus.add(device.clone())?;
        log::debug!("{id} is in PCI slot {slot}");
        self.cards().push(Card {
            id: id.to_owned(),
            device,
        });
        Ok(())
    }

    /// Ends the devices' workers: nothing reads or writes guest memory for them any more.
    pub fn stop(&self) {
        for card in self.cards().drain(..) {
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

/// The MSI-X vectors of a function: each an interrupt that KVM takes from an eventfd.
#[derive(Debug)]
struct Vectors {
    controller: Controller,
    interrupts: Vec<Interrupt>,
}

impl Vectors {
    fn new(controller: &Controller, count: usize) -> Result<Self, Error> {
        let interrupts = (0..count)
            .map(|_| controller.msi())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            controller: controller.clone(),
            interrupts,
        })
    }

    fn get(&self, vector: u16) -> Option<&Interrupt> {
        self.interrupts.get(usize::from(vector))
    }

    fn gsi(&self, vector: u16, action: &'static str) -> Result<u32, MsiError> {
        self.get(vector)
            .map(Interrupt::gsi)
            .ok_or_else(|| MsiError {
                vector,
                action,
                source: "there is no such vector".into(),
            })
    }
}

impl MsiSink for Vectors {
    fn vectors(&self) -> u16 {
        self.interrupts.len().try_into().unwrap_or(u16::MAX)
    }

    fn set_messages(&self, messages: &[(u16, MsiMessage)]) -> Result<(), MsiError> {
        const ACTION: &str = "set its message";
        let routes = messages
            .iter()
            .map(|&(vector, MsiMessage { address, data })| {
                let message = strata_interrupts::MsiMessage { address, data };
                Ok((self.gsi(vector, ACTION)?, message))
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.controller
            .set_messages(&routes)
            .map_err(|source| MsiError {
                vector: messages.first().map_or(0, |(vector, _)| *vector),
                action: ACTION,
                source: source.into(),
            })
    }

    fn set_masked(&self, vector: u16, masked: bool) -> Result<(), MsiError> {
        let action = if masked { "mask it" } else { "unmask it" };
        let gsi = self.gsi(vector, action)?;
        self.controller
            .set_masked(gsi, masked)
            .map_err(|source| MsiError {
                vector,
                action,
                source: source.into(),
            })
    }

    fn is_pending(&self, vector: u16) -> bool {
        self.get(vector)
            .is_some_and(|interrupt| self.controller.is_pending(interrupt.gsi()).unwrap_or(false))
    }

    fn event_fd(&self, vector: u16) -> Option<&EventFd> {
        self.get(vector).map(Interrupt::event_fd)
    }
}

/// Kicks by KVM's ioeventfds: the guest's write does not leave the kernel.
struct Kicks(Arc<VmFd>);

impl EventBinder for Kicks {
    fn bind(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.0
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn unbind(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.0
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}
