//! The model of the host itself: what KVM supports, without what is not wanted or not emulated.

use super::config::CpuidConfig;
use super::features::{
    AMX, AMX_BF16, AMX_FP16, AMX_INT8, MONITOR, MTRR, PDCM, PERFCTR_CORE, PERFCTR_LLC, PERFCTR_NB,
    SGX, SGX_LC, SVM, VMX, XSAVE_TILE_DATA,
};
use super::table::CpuidTable;

/// Leaves that describe what no guest gets: MWAIT, SGX, processor trace, key locker, memory
/// encryption.
const HIDDEN_LEAVES: [u32; 6] = [5, 0x12, 0x14, 0x19, 0x8000_001f, 0x8000_0023];

/// The leaves of performance counters.
const PMU_LEAVES: [u32; 3] = [0xa, 0x23, 0x8000_0022];

/// The leaves of the tile registers' shape.
const AMX_LEAVES: [u32; 2] = [0x1d, 0x1e];

const SVM_LEAF: u32 = 0x8000_000a;

pub(super) fn build(config: &CpuidConfig, supported: &CpuidTable) -> CpuidTable {
    let mut table = supported.clone();
    let mut hide = HIDDEN_LEAVES.to_vec();
    let mut off = vec![MONITOR, SGX, SGX_LC];
    if !config.pmu {
        hide.extend(PMU_LEAVES);
        off.extend([PDCM, PERFCTR_CORE, PERFCTR_NB, PERFCTR_LLC]);
    }
    if !config.nested {
        hide.push(SVM_LEAF);
        off.extend([VMX, SVM]);
    }
    if !config.mtrr {
        off.push(MTRR);
    }
    // KVM lists the instructions even if the process has no permission for the registers
    // (ARCH_REQ_XCOMP_GUEST_PERM).
    if !supported.has(XSAVE_TILE_DATA) {
        hide.extend(AMX_LEAVES);
        off.extend([AMX, AMX_BF16, AMX_INT8, AMX_FP16]);
    }
    table
        .entries
        .retain(|entry| !hide.contains(&entry.function));
    off.into_iter()
        .for_each(|feature| table.set(feature, false));
    table
}
