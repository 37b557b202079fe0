//! Who answers at which port and address.

use std::sync::Arc;

use strata_interrupts::Controller;
use strata_memory::GuestMemory;
use strata_vcpu::{Action, ExitHandler, ExitReason};
use vm_device::bus::{MmioAddress, PioAddress};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_memory::{Bytes, GuestAddress};

use super::{Pci, Power};
use crate::machine::Ended;

/// Serves the exits of all vCPUs, without a lock of its own: only what is on the PCI bus changes
/// while the machine runs.
pub struct Bus {
    io: IoManager,
    pci: Arc<Pci>,
    power: Arc<Power>,
    controller: Controller,
    memory: GuestMemory,
    ended: Arc<Ended>,
}

impl Bus {
    /// A bus with the devices of `io` and of `pci`.
    pub fn new(
        io: IoManager,
        pci: Arc<Pci>,
        power: Arc<Power>,
        controller: Controller,
        memory: GuestMemory,
        ended: Arc<Ended>,
    ) -> Self {
        Self {
            io,
            pci,
            power,
            controller,
            memory,
            ended,
        }
    }
}

impl ExitHandler for Bus {
    // An access that no device claims reads as ones and writes to nowhere, as on a bus without
    // a device: what a guest tries where is its own affair.
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        let _ = self.io.pio_read(PioAddress(port), data);
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> Action {
        let _ = self.io.pio_write(PioAddress(port), data);
        self.power.action()
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        if !self.pci.read(addr, data) {
            let _ = self.io.mmio_read(MmioAddress(addr), data);
        }
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) -> Action {
        if !self.pci.write(addr, data) {
            let _ = self.io.mmio_write(MmioAddress(addr), data);
        }
        self.power.action()
    }

    fn ioapic_eoi(&self, vector: u8) {
        self.controller.eoi(vector);
    }

    fn read_guest(&self, gpa: u64, out: &mut [u8]) -> bool {
        self.memory.read_slice(out, GuestAddress(gpa)).is_ok()
    }

    fn ended(&self, vcpu: u32, reason: &ExitReason) {
        self.ended.report(vcpu, reason);
    }
}
