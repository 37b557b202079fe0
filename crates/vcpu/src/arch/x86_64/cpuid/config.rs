use std::fmt;
use std::str::FromStr;

use super::features::{HYPERVISOR, OSXSAVE, X2APIC};
use super::table::{CpuidEntry, CpuidTable, Register, Vendor};
use super::topology::Topology;
use super::{baseline, host_model};
use crate::error::{Error, Result};

/// KVM's local APIC timer counts nanoseconds.
const APIC_BUS_KHZ: u32 = 1_000_000;

const TIMING_LEAF: u32 = 0x4000_0010;

/// Which processor a guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuModel {
    /// The host's own: all that KVM supports on it.
    #[default]
    Host,
    /// The second level of x86-64 (Nehalem, Zen and later), the same on all hosts of a vendor.
    X86_64V2,
    /// The third level of x86-64 (Haswell, Zen and later), the same on all hosts of a vendor.
    X86_64V3,
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::X86_64V2 => "x86-64-v2",
            Self::X86_64V3 => "x86-64-v3",
        })
    }
}

impl FromStr for CpuModel {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        [Self::Host, Self::X86_64V2, Self::X86_64V3]
            .into_iter()
            .find(|model| model.to_string() == name)
            .ok_or_else(|| format!("no CPU model `{name}`: take host, x86-64-v2 or x86-64-v3"))
    }
}

/// What decides CPUID's answers, besides the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuidConfig {
    /// Which processor the guest sees.
    pub model: CpuModel,
    /// How many vCPUs, and how they share cores.
    pub topology: Topology,
    /// The frequency of the time-stamp counter in kHz, where it is known.
    pub tsc_khz: Option<u32>,
    /// Offer performance counters ([`CpuModel::Host`] only).
    pub pmu: bool,
    /// Offer VMX or SVM ([`CpuModel::Host`] only).
    pub nested: bool,
    /// Offer MTRRs. Without them a Linux guest accesses fewer MSRs at boot, and maps device memory
    /// uncached where it would combine writes: leave them off only for guests without passed-through
    /// devices.
    pub mtrr: bool,
}

impl CpuidConfig {
    /// The host's model with MTRRs and without what needs to be asked for.
    pub fn new(topology: Topology) -> Self {
        Self {
            model: CpuModel::Host,
            topology,
            tsc_khz: None,
            pmu: false,
            nested: false,
            mtrr: true,
        }
    }

    /// Computes the answers from those that the host's KVM supports
    /// ([`Host::supported_cpuid`](crate::Host::supported_cpuid)).
    ///
    /// # Errors
    ///
    /// [`Error::Topology`], and [`Error::MissingCpuFeatures`] when the host lacks features of a
    /// named model.
    pub fn build(&self, supported: &CpuidTable) -> Result<CpuidTemplate> {
        self.topology.check()?;
        let mut table = match self.model {
            CpuModel::Host => host_model::build(self, supported),
            named => baseline::build(named, self.mtrr, supported)?,
        };
        // KVM emulates x2APIC on every host; OSXSAVE follows CR4 and is set by KVM.
        table.set(X2APIC, true);
        table.set(HYPERVISOR, true);
        table.set(OSXSAVE, false);
        self.topology.apply(&mut table);
        self.add_frequencies(&mut table);
        // Leaf 0xB is each vCPU's own, and counts when the largest leaf is determined.
        self.topology.apply_to_vcpu(&mut table, 0);
        trim(&mut table);
        Ok(CpuidTemplate {
            table,
            topology: self.topology,
        })
    }

    /// Frequencies that a guest would have to measure.
    fn add_frequencies(&self, table: &mut CpuidTable) {
        let Some(khz) = self.tsc_khz else { return };
        table.replace_leaf(
            TIMING_LEAF,
            &[CpuidEntry::leaf(TIMING_LEAF, [khz, APIC_BUS_KHZ, 0, 0])],
        );
        if table.vendor() == Vendor::Intel {
            table.replace_leaf(0x15, crystal_ratio(khz).as_slice());
        }
    }
}

/// Leaf 0x15: the TSC's ratio to the crystal's frequency, which is the APIC timer's (SDM volume 3,
/// 12.5.4).
///
/// Linux multiplies in 32 bits and trusts the result as exact, so the leaf is left out for a
/// frequency that does not come out so; kvmclock tells it then.
fn crystal_ratio(tsc_khz: u32) -> Option<CpuidEntry> {
    let divisor = gcd(tsc_khz, APIC_BUS_KHZ);
    let (numerator, denominator) = (tsc_khz / divisor, APIC_BUS_KHZ / divisor);
    APIC_BUS_KHZ.checked_mul(numerator)?;
    let hertz = APIC_BUS_KHZ.checked_mul(1000)?;
    Some(CpuidEntry::leaf(0x15, [denominator, numerator, hertz, 0]))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// AMD's leaf of APIC and core id, which is zero for the first vCPU only.
const EXTENDED_APIC_ID: u32 = 0x8000_001e;

/// Drops leaves that say nothing and lets the largest leaf of each range be the last that says
/// something: guests ask for all leaves up to it, and each question is an exit.
fn trim(table: &mut CpuidTable) {
    const RANGES: [u32; 3] = [0, 0x4000_0000, 0x8000_0000];
    table
        .entries
        .retain(|e| !e.is_zero() || RANGES.contains(&e.function) || e.function == EXTENDED_APIC_ID);
    for first in RANGES {
        let in_range = |e: &&CpuidEntry| e.function & 0xffff_0000 == first;
        let last = table
            .entries
            .iter()
            .filter(in_range)
            .map(|e| e.function)
            .max();
        if let (Some(last), Some(entry)) = (last, table.get_mut(first, 0)) {
            *entry.get_mut(Register::Eax) = last;
        }
    }
    table
        .entries
        .retain(|e| RANGES.contains(&(e.function & 0xffff_0000)));
}

/// The answers for all vCPUs of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuidTemplate {
    table: CpuidTable,
    topology: Topology,
}

impl CpuidTemplate {
    /// The answers of the vCPU with this index and APIC id.
    ///
    /// # Errors
    ///
    /// [`Error::Topology`] when the index is not below the number of vCPUs.
    pub fn for_vcpu(&self, index: u32) -> Result<CpuidTable> {
        let Topology {
            vcpus,
            threads_per_core,
        } = self.topology;
        if index >= vcpus {
            let reason = "the vCPU's index is not below their number";
            return Err(Error::Topology {
                vcpus,
                threads_per_core,
                reason,
            });
        }
        let mut table = self.table.clone();
        self.topology.apply_to_vcpu(&mut table, index);
        Ok(table)
    }
}
