//! Devices of the `legacy` crate on the port bus.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strata_legacy::Device;
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use super::Power;

/// A device whose registers are ports.
///
/// Its lock is held for one access at a time. These are the slow devices of a machine, which
/// cost an exit per access whatever we do.
pub(super) struct Ports<D> {
    name: &'static str,
    device: Mutex<D>,
    power: Arc<Power>,
}

impl<D: Device> Ports<D> {
    /// The device called `name` in messages, which says by `power` what becomes of the machine.
    pub(super) fn new(name: &'static str, device: D, power: Arc<Power>) -> Self {
        Self {
            name,
            device: Mutex::new(device),
            power,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, D> {
        // A panic in a device leaves its registers in some state, which is the guest's to see.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device> DevicePio for Ports<D> {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.lock().read(offset.into(), data);
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let result = self.lock().write(offset.into(), data);
        match result {
            Ok(None) => {}
            Ok(Some(event)) => self.power.happened(event),
            // Not a warning: a guest could fill the log with it.
            Err(error) => log::debug!("{}: {error}", self.name),
        }
    }
}
