//! The model of the host itself: what KVM supports, without what is not wanted or not emulated.

use super::config::CpuidConfig;
use super::features::{
    MONITOR, MTRR, PDCM, PERFCTR_CORE, PERFCTR_LLC, PERFCTR_NB, SGX, SGX_LC, SVM, VMX,
};
use super::table::CpuidTable;

/// Leaves that describe what no guest gets: SGX, processor trace, key locker, memory encryption.
const HIDDEN_LEAVES: [u32; 5] = [0x12, 0x14, 0x19, 0x8000_001f, 0x8000_0023];

/// The leaves of performance counters.
const PMU_LEAVES: [u32; 3] = [0xa, 0x23, 0x8000_0022];

const SVM_LEAF: u32 = 0x8000_000a;

pub(super) fn build(config: &CpuidConfig, supported: &CpuidTable) -> CpuidTable {
    let mut table = supported.clone();
    let mut hide = HIDDEN_LEAVES.to_vec();
    let mut off = vec![SGX, SGX_LC];
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
    table
        .entries
        .retain(|entry| !hide.contains(&entry.function));
    off.into_iter()
        .for_each(|feature| table.set(feature, false));
    table.set(MONITOR, config.mwait);
    if !config.mwait {
        table.replace_leaf(5, &[]);
    }
    table
}
