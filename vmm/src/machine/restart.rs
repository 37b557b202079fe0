//! A machine that starts again in place.
//!
//! What KVM keeps is set to what a machine that was just made has: one is made for that, read, and
//! thrown away. So a plain start pays nothing for a reset to come, and no register is forgotten
//! that a saved machine would not lack too. Devices, their files and the control socket stay.

use strata_interrupts::{ControllerState, MsiState};
use strata_vcpu::VcpuState;

use super::build::{Machine, create_vm, load, open_host, open_initrd, open_kernel};
use crate::arch;
use crate::config::MachineConfig;
use crate::error::Error;

impl Machine {
    /// Starts again: devices reset, memory empty but for the kernel, vCPUs before their first
    /// instruction, and paused. They are paused or have ended before.
    ///
    /// # Errors
    /// As [`Machine::build`]: the machine is then of no more use.
    pub(super) fn restart(&self, config: &MachineConfig) -> Result<(), Error> {
        let host = open_host(config)?;
        let kernel = open_kernel(config)?;
        let initrd = open_initrd(config)?;
        for vcpu in self.vcpus.iter() {
            vcpu.revive(self.bus.clone())?;
        }
        self.pci.reset()?;
        self.serial.reset();
        self.power.reset();
        for region in self.ram.regions() {
            self.ram.discard(region.guest_base(), region.size())?;
        }
        let entry = load(config, &kernel, initrd.as_ref(), &self.ram)?;
        let (vm, controller) = create_vm(&host, config)?;
        let fresh = arch::create_vcpus(&host, &vm, config, &entry)?;
        let states = fresh.iter().map(|vcpu| vcpu.state(&host));
        let states: Vec<VcpuState> = states.collect::<Result<_, _>>()?;
        // Local APICs before the controller, which delivers to them.
        for (vcpu, state) in self.vcpus.iter().zip(&states) {
            vcpu.with_paused(|vcpu| vcpu.set_state(state, &host))??;
        }
        self.controller.set_state(&ControllerState {
            chips: controller.state()?.chips,
            msis: unprogrammed(self.controller.state()?.msis),
        })?;
        self.ended.clear();
        Ok(())
    }
}

/// The same interrupts before a driver has told them where to go.
fn unprogrammed(msis: Vec<MsiState>) -> Vec<MsiState> {
    let fresh = msis.into_iter().map(|msi| MsiState {
        message: None,
        masked: true,
        pending: false,
        ..msi
    });
    fresh.collect()
}
