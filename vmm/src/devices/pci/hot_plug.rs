//! Slots that are filled and emptied while the guest runs.

use std::sync::{Arc, Mutex, PoisonError};

use strata_interrupts::{Controller, Interrupt};
use strata_pci::{Bus, Function, HotPlug, HotPlugEvents, HotPlugState};
use strata_virtio::VirtioPci;
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Pci;
use crate::arch;
use crate::error::Error;

/// A device that is off the bus.
pub struct Removed {
    /// Its name.
    pub id: String,
    /// The device, whose workers are on their way to their end.
    pub device: Arc<VirtioPci>,
}

/// Hot-plug by ACPI, with the way from the vCPU that ejects a device to the main loop.
pub(super) struct Slots {
    hot_plug: HotPlug,
    events: Arc<Events>,
}

/// What the guest is told, and what it tells.
struct Events {
    interrupt: Interrupt,
    removed: Mutex<Vec<Arc<dyn Function>>>,
    changed: EventFd,
}

impl HotPlugEvents for Events {
    fn notify(&self) {
        if let Err(error) = self.interrupt.trigger() {
            log::warn!("the guest is not told of a change on its PCI bus: {error}");
        }
        self.wake();
    }

    fn ejected(&self, slot: u8, function: Arc<dyn Function>) {
        log::debug!("the guest has ejected PCI slot {slot}");
        self.removed().push(function);
        self.wake();
    }
}

impl Events {
    fn wake(&self) {
        // It only fails when the counter is full, and then the main loop is awake already.
        let _ = self.changed.write(1);
    }

    fn removed(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn Function>>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    pub(super) fn new(bus: Arc<Bus>, controller: &Controller) -> Result<Self, Error> {
        let changed = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        let events = Arc::new(Events {
            interrupt: controller.edge_pin(arch::HOT_PLUG_IRQ)?,
            removed: Mutex::default(),
            changed,
        });
        let hot_plug = HotPlug::new(bus, arch::HOT_PLUG_SLOTS, events.clone());
        Ok(Self { hot_plug, events })
    }

    pub(super) fn add(&self, device: Arc<VirtioPci>) -> Result<u8, Error> {
        Ok(self.hot_plug.add(device)?)
    }

    pub(super) fn request_removal(&self, slot: u8) -> Result<(), Error> {
        Ok(self.hot_plug.request_removal(slot)?)
    }

    /// What came while the guest ran it now finds by itself; what it was asked to let go of it is
    /// asked again.
    pub(super) fn reset(&self) {
        let state = self.hot_plug.state();
        self.hot_plug.set_state(&HotPlugState {
            inserted: 0,
            ..state
        });
    }

    pub(super) fn take_removed(&self) -> Vec<Arc<dyn Function>> {
        std::mem::take(&mut *self.events.removed())
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.events.changed
    }

    pub(super) fn is_unseen(&self) -> bool {
        let state = self.hot_plug.state();
        state.inserted | state.removing != 0
    }

    /// An edge that comes before the guest's kernel has set its interrupt up is lost.
    pub(super) fn remind(&self) -> bool {
        let unseen = self.is_unseen();
        if unseen {
            self.events.notify();
        }
        unseen
    }
}

/// The registers between ACPI's methods and the slots.
pub(in crate::devices) struct HotPlugPorts(Arc<Pci>);

impl HotPlugPorts {
    /// The registers of `pci`, if it has hot-plug.
    pub(in crate::devices) fn of(pci: &Arc<Pci>) -> Option<Self> {
        pci.hot_plug.is_some().then(|| Self(Arc::clone(pci)))
    }
}

impl DevicePio for HotPlugPorts {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        match &self.0.hot_plug {
            Some(slots) => slots.hot_plug.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let Some(slots) = &self.0.hot_plug {
            slots.hot_plug.write(offset, data);
        }
    }
}
