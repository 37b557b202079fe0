//! x86-64.

mod boot;
mod cpuid;
mod kind;
mod msr;
mod registers;
mod state;

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, kvm_enable_cap};
use kvm_ioctls::{Cap, VmFd};

pub use boot::{EntryPoint, Protocol, boot_regs, boot_sregs};
pub use cpuid::{
    CpuModel, CpuidConfig, CpuidEntry, CpuidTable, CpuidTemplate, Register, Topology, Vendor,
};
pub use kind::HostKind;
pub use msr::MsrEntry;
pub use registers::Registers;
pub use state::{STATE_KIND, STATE_VERSION, VcpuState};

use crate::error::{Error, Result};
use crate::sys;
use crate::vcpu::Vcpu;

/// One machine-check bank: a Linux guest accesses several MSRs for each of KVM's default of 32 on
/// every vCPU at boot, all of them exits, and no errors are injected into them.
const MCG_CAP: u64 = 1;

/// Capabilities without which no vCPU works here, with their names in the KVM API documentation.
pub(crate) const REQUIRED: [(Cap, &str); 10] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

impl Vcpu {
    pub(crate) fn init_arch(&self) -> Result<()> {
        sys::setup_mce(&self.fd, MCG_CAP).map_err(self.failed("KVM_X86_SETUP_MCE"))
    }

    /// The frequency of the vCPU's time-stamp counter in kHz, for [`CpuidConfig::tsc_khz`]; `None`
    /// where the host has no stable one.
    pub fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|&khz| khz != 0)
    }

    /// Sets what the CPUID instruction answers.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`](crate::Error::Vcpu) when KVM refuses, for example after the vCPU ran.
    pub fn set_cpuid(&mut self, table: CpuidTable) -> Result<()> {
        if table != self.cpuid {
            let entries = table.to_kvm().map_err(self.failed("KVM_SET_CPUID2"))?;
            self.fd
                .set_cpuid2(&entries)
                .map_err(self.failed("KVM_SET_CPUID2"))?;
            self.cpuid = table;
        }
        Ok(())
    }

    /// Tells the guest's soft-lockup watchdog that it was paused.
    pub(crate) fn excuse_lost_time(&self) {
        // It is refused where the guest has not set up kvmclock, and nothing is to be told then.
        let _ = self.fd.kvmclock_ctrl();
    }
}

/// KVM_PMU_CAP_DISABLE.
pub(crate) const PMU_CAP_DISABLE: u32 = 1;

/// Refuses a VM's guests all performance counters, so that they find none at the first probe. To
/// be called before the VM's first vCPU is created; does nothing where KVM cannot.
///
/// # Errors
///
/// [`Error::System`] when KVM can and refuses.
pub fn disable_pmu(vm: &VmFd) -> Result<()> {
    let offered = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if u32::try_from(offered).unwrap_or(0) & PMU_CAP_DISABLE == 0 {
        return Ok(());
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        args: [PMU_CAP_DISABLE.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(|source| Error::System {
        request: "KVM_ENABLE_CAP for KVM_CAP_PMU_CAPABILITY",
        source,
    })
}
