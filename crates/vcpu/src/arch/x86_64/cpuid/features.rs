//! CPUID's feature bits: their names, and which of them one table has and another lacks.

use super::table::{CpuidTable, Register, Vendor};
use Register::{Eax, Ebx, Ecx, Edx};

/// A register of feature bits: leaf, subleaf and register.
pub(super) type Place = (u32, u32, Register);

/// A feature bit and its name in Linux' /proc/cpuinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) place: Place,
    pub(super) bit: u32,
    pub(super) name: &'static str,
}

const fn feature(place: Place, bit: u32, name: &'static str) -> Feature {
    Feature { place, bit, name }
}

const LEAF_1_ECX: Place = (1, 0, Ecx);
const LEAF_1_EDX: Place = (1, 0, Edx);
const LEAF_7_EBX: Place = (7, 0, Ebx);
const EXT_1_ECX: Place = (0x8000_0001, 0, Ecx);
const EXT_1_EDX: Place = (0x8000_0001, 0, Edx);
const KVM_EAX: Place = (0x4000_0001, 0, Eax);

/// All registers whose bits are features: a guest that saw one set may rely on it.
const PLACES: [Place; 14] = [
    LEAF_1_ECX,
    LEAF_1_EDX,
    (6, 0, Eax),
    LEAF_7_EBX,
    (7, 0, Ecx),
    (7, 0, Edx),
    (7, 1, Eax),
    (7, 1, Edx),
    (0xd, 0, Eax),
    (0xd, 1, Eax),
    KVM_EAX,
    EXT_1_ECX,
    EXT_1_EDX,
    (0x8000_0008, 0, Ebx),
];

/// Bits that say how things are, not what can be done, or that KVM sets by itself.
const NOT_FEATURES: [Feature; 5] = [HYPERVISOR, OSXSAVE, OSPKE, HTT, CMP_LEGACY];

pub(super) const MONITOR: Feature = feature(LEAF_1_ECX, 3, "monitor");
pub(super) const VMX: Feature = feature(LEAF_1_ECX, 5, "vmx");
pub(super) const PDCM: Feature = feature(LEAF_1_ECX, 15, "pdcm");
pub(super) const X2APIC: Feature = feature(LEAF_1_ECX, 21, "x2apic");
pub(super) const TSC_DEADLINE: Feature = feature(LEAF_1_ECX, 24, "tsc_deadline_timer");
pub(super) const OSXSAVE: Feature = feature(LEAF_1_ECX, 27, "osxsave");
pub(super) const HYPERVISOR: Feature = feature(LEAF_1_ECX, 31, "hypervisor");
pub(super) const MTRR: Feature = feature(LEAF_1_EDX, 12, "mtrr");
pub(super) const HTT: Feature = feature(LEAF_1_EDX, 28, "ht");
pub(super) const SGX: Feature = feature(LEAF_7_EBX, 2, "sgx");
pub(super) const OSPKE: Feature = feature((7, 0, Ecx), 4, "ospke");
pub(super) const SGX_LC: Feature = feature((7, 0, Ecx), 30, "sgx_lc");
pub(super) const AMX_BF16: Feature = feature((7, 0, Edx), 22, "amx_bf16");
pub(super) const AMX: Feature = feature((7, 0, Edx), 24, "amx_tile");
pub(super) const AMX_INT8: Feature = feature((7, 0, Edx), 25, "amx_int8");
pub(super) const AMX_FP16: Feature = feature((7, 1, Eax), 21, "amx_fp16");
pub(super) const XSAVE_TILE_DATA: Feature = feature((0xd, 0, Eax), 18, "xsave_tile_data");
pub(super) const CMP_LEGACY: Feature = feature(EXT_1_ECX, 1, "cmp_legacy");
pub(super) const SVM: Feature = feature(EXT_1_ECX, 2, "svm");
pub(super) const TOPOEXT: Feature = feature(EXT_1_ECX, 22, "topoext");
pub(super) const PERFCTR_CORE: Feature = feature(EXT_1_ECX, 23, "perfctr_core");
pub(super) const PERFCTR_NB: Feature = feature(EXT_1_ECX, 24, "perfctr_nb");
pub(super) const PERFCTR_LLC: Feature = feature(EXT_1_ECX, 28, "perfctr_llc");

/// Bits of leaf 1 EDX that AMD repeats in leaf 0x8000_0001 EDX (APM volume 3, E.4.2).
pub(super) const AMD_REPEATED: u32 = 0x0183_f3ff;

/// The first level of x86-64 (System V ABI, 3.1.1), and what every virtual machine has.
pub(super) const V1: &[Feature] = &[
    feature(LEAF_1_EDX, 0, "fpu"),
    feature(LEAF_1_EDX, 2, "de"),
    feature(LEAF_1_EDX, 3, "pse"),
    feature(LEAF_1_EDX, 4, "tsc"),
    feature(LEAF_1_EDX, 5, "msr"),
    feature(LEAF_1_EDX, 6, "pae"),
    feature(LEAF_1_EDX, 7, "mce"),
    feature(LEAF_1_EDX, 8, "cx8"),
    feature(LEAF_1_EDX, 9, "apic"),
    feature(LEAF_1_EDX, 11, "sep"),
    MTRR,
    feature(LEAF_1_EDX, 13, "pge"),
    feature(LEAF_1_EDX, 14, "mca"),
    feature(LEAF_1_EDX, 15, "cmov"),
    feature(LEAF_1_EDX, 16, "pat"),
    feature(LEAF_1_EDX, 17, "pse36"),
    feature(LEAF_1_EDX, 19, "clflush"),
    feature(LEAF_1_EDX, 23, "mmx"),
    feature(LEAF_1_EDX, 24, "fxsr"),
    feature(LEAF_1_EDX, 25, "sse"),
    feature(LEAF_1_EDX, 26, "sse2"),
    X2APIC,
    TSC_DEADLINE,
    feature((6, 0, Eax), 2, "arat"),
    feature(LEAF_7_EBX, 1, "tsc_adjust"),
    feature(EXT_1_EDX, 11, "syscall"),
    feature(EXT_1_EDX, 20, "nx"),
    feature(EXT_1_EDX, 29, "lm"),
    feature(KVM_EAX, 0, "kvm_clocksource"),
    feature(KVM_EAX, 1, "kvm_nop_io_delay"),
    feature(KVM_EAX, 3, "kvm_clocksource2"),
    feature(KVM_EAX, 6, "kvm_pv_eoi"),
    feature(KVM_EAX, 7, "kvm_pv_unhalt"),
    feature(KVM_EAX, 9, "kvm_pv_tlb_flush"),
    feature(KVM_EAX, 11, "kvm_pv_send_ipi"),
    feature(KVM_EAX, 13, "kvm_pv_sched_yield"),
    feature(KVM_EAX, 24, "kvm_clocksource_stable"),
];

/// What the second level adds, and RDTSCP, which all its processors have.
pub(super) const V2: &[Feature] = &[
    feature(LEAF_1_ECX, 0, "pni"),
    feature(LEAF_1_ECX, 9, "ssse3"),
    feature(LEAF_1_ECX, 13, "cx16"),
    feature(LEAF_1_ECX, 19, "sse4_1"),
    feature(LEAF_1_ECX, 20, "sse4_2"),
    feature(LEAF_1_ECX, 23, "popcnt"),
    feature(EXT_1_ECX, 0, "lahf_lm"),
    feature(EXT_1_EDX, 27, "rdtscp"),
];

/// What the third level adds, and what all its processors (Haswell, Zen and later) have besides.
pub(super) const V3: &[Feature] = &[
    feature(LEAF_1_ECX, 1, "pclmulqdq"),
    feature(LEAF_1_ECX, 12, "fma"),
    feature(LEAF_1_ECX, 22, "movbe"),
    feature(LEAF_1_ECX, 25, "aes"),
    feature(LEAF_1_ECX, 26, "xsave"),
    feature(LEAF_1_ECX, 28, "avx"),
    feature(LEAF_1_ECX, 29, "f16c"),
    feature(LEAF_1_ECX, 30, "rdrand"),
    feature(LEAF_7_EBX, 0, "fsgsbase"),
    feature(LEAF_7_EBX, 3, "bmi1"),
    feature(LEAF_7_EBX, 5, "avx2"),
    feature(LEAF_7_EBX, 7, "smep"),
    feature(LEAF_7_EBX, 8, "bmi2"),
    feature((0xd, 0, Eax), 0, "xsave_x87"),
    feature((0xd, 0, Eax), 1, "xsave_sse"),
    feature((0xd, 0, Eax), 2, "xsave_avx"),
    feature((0xd, 1, Eax), 0, "xsaveopt"),
    feature(EXT_1_ECX, 5, "abm"),
    feature(EXT_1_EDX, 26, "pdpe1gb"),
];

const NAMED: [&[Feature]; 4] = [V1, V2, V3, &[VMX, SVM, TOPOEXT]];

impl CpuidTable {
    pub(super) fn has(&self, feature: Feature) -> bool {
        let (function, index, register) = feature.place;
        self.register(function, index, register) & (1 << feature.bit) != 0
    }

    /// Sets or clears a feature, where its leaf is in the table.
    pub(super) fn set(&mut self, feature: Feature, on: bool) {
        let (function, index, register) = feature.place;
        if let Some(entry) = self.get_mut(function, index) {
            let bits = entry.get_mut(register);
            *bits = *bits & !(1 << feature.bit) | u32::from(on) << feature.bit;
        }
    }

    /// Adds the TSC-deadline timer, which KVM reports by a capability.
    pub(crate) fn add_tsc_deadline_timer(&mut self) {
        self.set(TSC_DEADLINE, true);
    }

    /// Whether the guest may run guests of its own.
    pub(crate) fn offers_virtualization(&self) -> bool {
        self.has(VMX) || self.has(SVM)
    }

    /// The names of all features that this table has and `other` lacks; leaf, register and bit of
    /// those that have no name here.
    pub fn features_missing_in(&self, other: &Self) -> Vec<String> {
        let mut names = Vec::new();
        for place in PLACES {
            let (function, index, register) = place;
            let ignored = NOT_FEATURES.iter().filter(|f| f.place == place);
            let ignored = ignored.fold(0, |bits, f| bits | 1 << f.bit);
            let missing = self.register(function, index, register)
                & !other.register(function, index, register)
                & !ignored;
            names.extend(
                (0..32)
                    .filter(|bit| missing >> bit & 1 != 0)
                    .map(|b| name(place, b)),
            );
        }
        if self.vendor() != other.vendor() {
            names.push(match self.vendor() {
                Vendor::Intel => "an Intel processor".to_owned(),
                Vendor::Amd => "an AMD processor".to_owned(),
            });
        }
        names
    }
}

fn name(place: Place, bit: u32) -> String {
    let known = NAMED
        .iter()
        .copied()
        .flatten()
        .find(|f| f.place == place && f.bit == bit);
    let (function, index, register) = place;
    known.map_or_else(
        || format!("cpuid {function:#x}.{index} {register:?} bit {bit}"),
        |feature| feature.name.to_owned(),
    )
}
