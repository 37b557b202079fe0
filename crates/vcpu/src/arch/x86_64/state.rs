//! The whole state of a vCPU as plain data.

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_SIPI_RECEIVED, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use super::cpuid::CpuidTable;
use super::msr::{MAX_MSRS, MsrEntry};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::sys;
use crate::vcpu::Vcpu;

/// What a saved [`VcpuState`] is called in a container of states.
pub const STATE_KIND: &str = "vcpu-x86_64";

/// The version of [`VcpuState`]'s layout.
pub const STATE_VERSION: u32 = 1;

/// The XSAVE area that every KVM exchanges, in bytes.
const XSAVE_MIN: usize = 4096;

/// No processor has a larger XSAVE area than this, in bytes (with AMX it is 11 KiB).
const XSAVE_MAX: usize = 1 << 20;

/// The state of a vCPU. All of it is untrusted when it comes from outside: [`Vcpu::set_state`]
/// and KVM check it.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VcpuState {
    /// What the CPUID instruction answers.
    pub cpuid: CpuidTable,
    /// Frequency of the time-stamp counter in kHz, where the host knows it.
    pub tsc_khz: Option<u32>,
    /// KVM_MP_STATE_*: running, halted, waiting for INIT or SIPI.
    pub mp_state: u32,
    /// General registers, instruction pointer and flags.
    pub regs: kvm_regs,
    /// Segments, descriptor tables, control registers and EFER.
    pub sregs: kvm_sregs,
    /// The XSAVE area: x87, SSE, AVX and all later register sets.
    pub xsave: Vec<u8>,
    /// XCR0.
    pub xcrs: kvm_xcrs,
    /// Debug registers.
    pub debug_regs: kvm_debugregs,
    /// The local APIC's registers.
    pub lapic: kvm_lapic_state,
    /// Model-specific registers, in the order of restoring.
    pub msrs: Vec<MsrEntry>,
    /// Pending and injected exceptions, interrupts, NMIs and SIPIs.
    pub events: kvm_vcpu_events,
}

impl Vcpu {
    /// Reads the whole state.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`] and [`Error::System`] when KVM refuses, [`Error::NestedState`] when the
    /// guest was offered nested virtualization.
    pub fn state(&self, host: &Host) -> Result<VcpuState> {
        if self.cpuid.offers_virtualization() {
            return Err(Error::NestedState { vcpu: self.index });
        }
        // First, because it makes KVM process a pending INIT or SIPI (KVM_GET_MP_STATE), which
        // changes what the others return.
        let mp_state = self
            .fd
            .get_mp_state()
            .map_err(self.failed("KVM_GET_MP_STATE"))?;
        Ok(VcpuState {
            cpuid: self.cpuid.clone(),
            tsc_khz: self.tsc_khz(),
            mp_state: mp_state.mp_state,
            regs: self.fd.get_regs().map_err(self.failed("KVM_GET_REGS"))?,
            sregs: self.fd.get_sregs().map_err(self.failed("KVM_GET_SREGS"))?,
            xsave: self.xsave()?,
            xcrs: self.fd.get_xcrs().map_err(self.failed("KVM_GET_XCRS"))?,
            debug_regs: self
                .fd
                .get_debug_regs()
                .map_err(self.failed("KVM_GET_DEBUGREGS"))?,
            msrs: self.read_msrs(host.saved_msrs()?)?,
            lapic: self.fd.get_lapic().map_err(self.failed("KVM_GET_LAPIC"))?,
            events: self
                .fd
                .get_vcpu_events()
                .map_err(self.failed("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Makes this vCPU the one that `state` was read from.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidState`] and [`Error::MissingCpuFeatures`] before anything is changed;
    /// [`Error::Vcpu`] and [`Error::MsrWrite`] when KVM refuses a part, after which the vCPU must
    /// not run.
    pub fn set_state(&mut self, state: &VcpuState, host: &Host) -> Result<()> {
        self.check_state(state)?;
        if state.cpuid != self.cpuid {
            self.check_features(&state.cpuid, host)?;
        }
        // The order is KVM's: CPUID decides which bits the rest may have; the APIC base in sregs
        // decides the layout of the local APIC; MSRs come after the local APIC, whose timer mode
        // decides whether a TSC deadline is kept; regs and sregs drop pending events, so events
        // are last.
        self.set_cpuid(state.cpuid.clone())?;
        self.set_tsc_khz(state.tsc_khz)?;
        let mp_state = kvm_mp_state {
            mp_state: state.mp_state,
        };
        self.fd
            .set_mp_state(mp_state)
            .map_err(self.failed("KVM_SET_MP_STATE"))?;
        self.fd
            .set_regs(&state.regs)
            .map_err(self.failed("KVM_SET_REGS"))?;
        self.fd
            .set_sregs(&state.sregs)
            .map_err(self.failed("KVM_SET_SREGS"))?;
        self.fd
            .set_xcrs(&state.xcrs)
            .map_err(self.failed("KVM_SET_XCRS"))?;
        self.set_xsave(&state.xsave)?;
        self.fd
            .set_debug_regs(&state.debug_regs)
            .map_err(self.failed("KVM_SET_DEBUGREGS"))?;
        self.fd
            .set_lapic(&state.lapic)
            .map_err(self.failed("KVM_SET_LAPIC"))?;
        self.write_msrs(&state.msrs)?;
        self.fd
            .set_vcpu_events(&state.events)
            .map_err(self.failed("KVM_SET_VCPU_EVENTS"))
    }

    fn check_state(&self, state: &VcpuState) -> Result<()> {
        let room = self.xsave_size.max(XSAVE_MIN);
        let fits =
            state.xsave.len() <= room || state.xsave.iter().skip(room).all(|&byte| byte == 0);
        let rules = [
            (
                state.cpuid.len() <= KVM_MAX_CPUID_ENTRIES,
                "too many CPUID entries",
            ),
            (
                state.mp_state <= KVM_MP_STATE_SIPI_RECEIVED,
                "an unknown run state",
            ),
            (state.msrs.len() <= MAX_MSRS, "too many MSRs"),
            (state.xsave.len() >= XSAVE_MIN, "too small an XSAVE area"),
            (state.xsave.len() <= XSAVE_MAX, "too large an XSAVE area"),
            (
                fits,
                "registers in the XSAVE area that this host does not have",
            ),
            (
                state.xcrs.nr_xcrs as usize <= state.xcrs.xcrs.len(),
                "too many XCRs",
            ),
            (
                state.cpuid.apic_id() == Some(self.index),
                "the APIC id of another vCPU",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(Error::InvalidState {
                vcpu: self.index,
                reason,
            }),
            None => Ok(()),
        }
    }

    fn check_features(&self, wanted: &CpuidTable, host: &Host) -> Result<()> {
        let names = wanted.features_missing_in(&host.supported_cpuid()?);
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::MissingCpuFeatures {
            wanted_by: format!("the saved state of vcpu{}", self.index),
            names,
        })
    }

    /// A frequency that the host's counter has anyway needs no scaling.
    fn set_tsc_khz(&self, khz: Option<u32>) -> Result<()> {
        match khz {
            Some(khz) if self.tsc_khz() != Some(khz) => self
                .fd
                .set_tsc_khz(khz)
                .map_err(self.failed("KVM_SET_TSC_KHZ")),
            _ => Ok(()),
        }
    }

    fn xsave(&self) -> Result<Vec<u8>> {
        if self.xsave_size == 0 {
            let area = self.fd.get_xsave().map_err(self.failed("KVM_GET_XSAVE"))?;
            return Ok(area
                .region
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect());
        }
        let mut area = vec![0; self.xsave_size.max(XSAVE_MIN)];
        sys::get_xsave2(&self.fd, &mut area).map_err(self.failed("KVM_GET_XSAVE2"))?;
        Ok(area)
    }

    fn set_xsave(&self, saved: &[u8]) -> Result<()> {
        let mut area = saved.to_vec();
        area.resize(self.xsave_size.max(XSAVE_MIN), 0);
        sys::set_xsave(&self.fd, &area).map_err(self.failed("KVM_SET_XSAVE"))
    }
}
