//! CPUID policy on made-up hosts.

use super::features::{AMD_REPEATED, Feature, V1, V2, V3};
use super::table::Register::{Eax, Ebx, Ecx, Edx};
use super::{CpuModel, CpuidConfig, CpuidEntry, CpuidTable, Topology, Vendor};
use crate::error::Error;

const NO_FEATURES: [u32; 4] = [0; 4];

fn leaf(function: u32, registers: [u32; 4]) -> CpuidEntry {
    CpuidEntry::leaf(function, registers)
}

fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> CpuidEntry {
    CpuidEntry::subleaf(function, index, registers)
}

fn words(name: &[u8; 12]) -> [u32; 3] {
    [0, 4, 8].map(|i| u32::from_le_bytes(name[i..i + 4].try_into().unwrap()))
}

/// A host whose KVM supports `features`, and things that no guest should see.
fn host(vendor: Vendor, features: &[&[Feature]]) -> CpuidTable {
    let [b, d, c] = match vendor {
        Vendor::Intel => words(b"GenuineIntel"),
        Vendor::Amd => words(b"AuthenticAMD"),
    };
    let kvm = words(b"KVMKVMKVM\0\0\0");
    let mut table: CpuidTable = [
        leaf(0, [0x20, b, c, d]),
        leaf(
            1,
            [
                0x806f8,
                7 << 24 | 64 << 16,
                1 << 3 | 1 << 5 | 1 << 15 | 1 << 27,
                0,
            ],
        ),
        leaf(5, [64, 64, 3, 0]),
        leaf(6, NO_FEATURES),
        subleaf(7, 0, [2, 1 << 2, 1 << 30, 1 << 24 | 1 << 25]),
        subleaf(7, 1, [1 << 21, 0, 0, 0]),
        leaf(0xa, [0x0730_0402, 0, 0, 0x603]),
        subleaf(0xb, 0, [1, 2, 0x100, 7]),
        subleaf(0xd, 0, [0, 832, 2696, 0]),
        subleaf(0xd, 1, NO_FEATURES),
        subleaf(0xd, 2, [256, 576, 0, 0]),
        subleaf(0x12, 0, [1, 0, 0, 0]),
        subleaf(0x1d, 0, [1, 0, 0, 0]),
        subleaf(0x1f, 0, [1, 2, 0x100, 7]),
        leaf(0x20, NO_FEATURES),
        leaf(0x4000_0000, [0x4000_0001, kvm[0], kvm[1], kvm[2]]),
        leaf(0x4000_0001, NO_FEATURES),
        leaf(0x8000_0000, [0x8000_0022, b, c, d]),
        leaf(0x8000_0001, [0, 0, 1 << 2 | 1 << 22 | 1 << 23, 0]),
        leaf(0x8000_0008, [48 << 8 | 46, 0, 0x703f, 0]),
        leaf(0x8000_000a, [1, 8, 0, 0xff]),
        leaf(0x8000_001f, [3, 0, 0, 0]),
        leaf(0x8000_0022, [1, 6, 0, 0]),
        leaf(0xc000_0000, [0xc000_0001, 0, 0, 0]),
    ]
    .into_iter()
    .collect();
    // An L1 data cache and an L3 of 64 threads, type 0 ends the list.
    let cache_leaf = if vendor == Vendor::Amd {
        0x8000_001d
    } else {
        4
    };
    let caches = [
        [1 << 5 | 1 | 1 << 14, 1, 63, 0],
        [3 << 5 | 3 | 63 << 14, 1, 63, 0],
        [0; 4],
    ];
    table.entries.extend(
        (0..)
            .zip(caches)
            .map(|(i, regs)| subleaf(cache_leaf, i, regs)),
    );
    if vendor == Vendor::Amd {
        table.entries.push(leaf(0x8000_001e, [7, 0x103, 0x2, 0]));
    }
    features
        .iter()
        .copied()
        .flatten()
        .for_each(|&feature| table.set(feature, true));
    if vendor == Vendor::Amd {
        let repeated = table.register(1, 0, Edx) & AMD_REPEATED;
        *table.get_mut(0x8000_0001, 0).unwrap().get_mut(Edx) |= repeated;
    }
    table
}

fn v3_host(vendor: Vendor) -> CpuidTable {
    host(vendor, &[V1, V2, V3])
}

fn config(model: CpuModel, vcpus: u32, threads_per_core: u32) -> CpuidConfig {
    let topology = Topology {
        vcpus,
        threads_per_core,
    };
    CpuidConfig {
        model,
        tsc_khz: Some(2_445_406),
        ..CpuidConfig::new(topology)
    }
}

fn build(config: &CpuidConfig, host: &CpuidTable, vcpu: u32) -> CpuidTable {
    config.build(host).unwrap().for_vcpu(vcpu).unwrap()
}

#[test]
fn the_host_model_hides_what_no_guest_gets() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let host = v3_host(vendor);
        let table = build(&config(CpuModel::Host, 1, 1), &host, 0);
        let hidden = [
            5,
            0xa,
            0x12,
            0x1d,
            0x1f,
            0x8000_000a,
            0x8000_001f,
            0x8000_0022,
            0xc000_0000,
        ];
        assert_eq!(hidden.map(|function| table.get(function, 0)), [None; 9]);
        // MONITOR, VMX, PDCM and OSXSAVE; SVM and PERFCTR_CORE; SGX and AMX.
        assert_eq!(
            table.register(1, 0, Ecx) & (1 << 3 | 1 << 5 | 1 << 15 | 1 << 27),
            0
        );
        assert_eq!(table.register(0x8000_0001, 0, Ecx) & (1 << 2 | 1 << 23), 0);
        assert_eq!(table.register(7, 0, Ebx) & 1 << 2, 0);
        assert_eq!(table.register(7, 0, Ecx), 0);
        assert_eq!(table.register(7, 0, Edx), 0);
        assert_eq!(table.get(7, 1), None);
        // Hypervisor, TSC deadline and x2APIC.
        assert_eq!(
            table.register(1, 0, Ecx) & (1 << 31 | 1 << 24 | 1 << 21),
            0x8120_0000
        );
    }
}

#[test]
fn what_is_asked_for_stays() {
    let host = v3_host(Vendor::Amd);
    let asked = CpuidConfig {
        pmu: true,
        nested: true,
        mtrr: false,
        ..config(CpuModel::Host, 1, 1)
    };
    let table = build(&asked, &host, 0);
    assert_eq!(table.register(0x8000_0022, 0, Eax), 1);
    assert_eq!(table.register(0x8000_000a, 0, Eax), 1);
    assert_eq!(
        table.register(0x8000_0001, 0, Ecx) & (1 << 2 | 1 << 23),
        1 << 2 | 1 << 23
    );
    assert_eq!(table.register(1, 0, Edx) & 1 << 12, 0);
    assert!(table.offers_virtualization());
    let default = build(&config(CpuModel::Host, 1, 1), &host, 0);
    assert_eq!(default.register(1, 0, Edx) & 1 << 12, 1 << 12);
    assert!(!default.offers_virtualization());
}

#[test]
fn the_largest_leaf_is_the_last_that_says_something() {
    let intel = build(&config(CpuModel::Host, 1, 1), &v3_host(Vendor::Intel), 0);
    assert_eq!(
        [0, 0x4000_0000, 0x8000_0000].map(|f| intel.register(f, 0, Eax)),
        [0xd, 0x4000_0010, 0x8000_0008]
    );
    let amd = build(&config(CpuModel::Host, 1, 1), &v3_host(Vendor::Amd), 0);
    assert_eq!(amd.register(0x8000_0000, 0, Eax), 0x8000_001e);
    let no_frequency = CpuidConfig {
        tsc_khz: None,
        ..config(CpuModel::Host, 1, 1)
    };
    let table = build(&no_frequency, &v3_host(Vendor::Amd), 0);
    assert_eq!(table.register(0x4000_0000, 0, Eax), 0x4000_0001);
}

#[test]
fn each_vcpu_has_its_own_apic_id() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let template = config(CpuModel::Host, 6, 2)
            .build(&v3_host(vendor))
            .unwrap();
        for id in 0..6 {
            let table = template.for_vcpu(id).unwrap();
            assert_eq!(table.apic_id(), Some(id));
            // 8 APIC ids, CLFLUSH lines of 64 bytes.
            assert_eq!(table.register(1, 0, Ebx), id << 24 | 8 << 16 | 8 << 8);
            assert_eq!(table.register(1, 0, Edx) & 1 << 28, 1 << 28);
            let level = |i| table.get(0xb, i).map(|e| [e.eax, e.ebx, e.ecx, e.edx]);
            assert_eq!(level(0), Some([1, 2, 0x100, id]));
            assert_eq!(level(1), Some([3, 6, 0x201, id]));
            assert_eq!(level(2), Some([0, 0, 2, id]));
            if vendor == Vendor::Amd {
                let extended = table.get(0x8000_001e, 0).unwrap();
                assert_eq!(
                    [extended.eax, extended.ebx, extended.ecx],
                    [id, 0x100 + id / 2, 0]
                );
            }
        }
        assert!(matches!(
            template.for_vcpu(6),
            Err(Error::Topology { vcpus: 6, .. })
        ));
    }
}

#[test]
fn caches_are_shared_as_the_topology_says() {
    let intel = build(&config(CpuModel::Host, 8, 2), &v3_host(Vendor::Intel), 0);
    // L1: 2 threads, L3: 8; 4 cores in the package.
    assert_eq!(intel.register(4, 0, Eax), 3 << 26 | 1 << 14 | 1 << 5 | 1);
    assert_eq!(intel.register(4, 1, Eax), 3 << 26 | 7 << 14 | 3 << 5 | 3);
    assert_eq!(intel.register(0x8000_0008, 0, Ecx), 0);
    let amd = build(&config(CpuModel::Host, 8, 1), &v3_host(Vendor::Amd), 0);
    assert_eq!(amd.register(0x8000_001d, 0, Eax), 1 << 5 | 1);
    assert_eq!(amd.register(0x8000_001d, 1, Eax), 7 << 14 | 3 << 5 | 3);
    // 3 bits of APIC id, 8 threads; CMP_LEGACY, for HTT means cores.
    assert_eq!(amd.register(0x8000_0008, 0, Ecx), 3 << 12 | 7);
    assert_eq!(amd.register(0x8000_0001, 0, Ecx) & 2, 2);
}

#[test]
fn one_vcpu_has_no_siblings() {
    let table = build(&config(CpuModel::Host, 1, 1), &v3_host(Vendor::Amd), 0);
    assert_eq!(table.register(1, 0, Ebx), 1 << 16 | 8 << 8);
    assert_eq!(table.register(1, 0, Edx) & 1 << 28, 0);
    assert_eq!(table.register(0x8000_0001, 0, Ecx) & 2, 0);
    assert_eq!(table.register(0xb, 1, Ebx), 1);
}

#[test]
fn frequencies_are_told_exactly_or_not() {
    let with = |vendor, khz| {
        let config = CpuidConfig {
            tsc_khz: Some(khz),
            ..config(CpuModel::Host, 1, 1)
        };
        build(&config, &v3_host(vendor), 0)
    };
    let timing = with(Vendor::Amd, 2_445_406);
    assert_eq!(timing.register(0x4000_0010, 0, Eax), 2_445_406);
    assert_eq!(timing.register(0x4000_0010, 0, Ebx), 1_000_000);
    assert_eq!(with(Vendor::Amd, 2_400_000).get(0x15, 0), None);
    let exact = with(Vendor::Intel, 2_400_000);
    let crystal = exact.get(0x15, 0).unwrap();
    // 12 / 5 of 1 GHz; what Linux computes in 32 bits is the frequency.
    assert_eq!(
        [crystal.eax, crystal.ebx, crystal.ecx],
        [5, 12, 1_000_000_000]
    );
    assert_eq!(
        (crystal.ecx / 1000).checked_mul(crystal.ebx).unwrap() / crystal.eax,
        2_400_000
    );
    assert_eq!(with(Vendor::Intel, 2_445_406).get(0x15, 0), None);
}

#[test]
fn a_named_model_is_the_same_on_every_host_of_a_vendor() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let lesser = v3_host(vendor);
        let mut greater = lesser.clone();
        for entry in &mut greater.entries {
            match entry.function {
                1 => entry.eax = 0xc06f2,
                7 => entry.ebx |= 0xffff_0000,
                0x8000_0001 => entry.ecx |= 1 << 16,
                0x8000_0008 => entry.eax += 4,
                _ => {}
            }
        }
        for model in [CpuModel::X86_64V2, CpuModel::X86_64V3] {
            let config = config(model, 4, 1);
            assert_eq!(build(&config, &lesser, 3), build(&config, &greater, 3));
        }
    }
}

#[test]
fn named_models_have_their_level_and_no_more() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let host = v3_host(vendor);
        let v2 = build(&config(CpuModel::X86_64V2, 1, 1), &host, 0);
        let v3 = build(&config(CpuModel::X86_64V3, 1, 1), &host, 0);
        let all = |table: &CpuidTable, level: &[Feature]| level.iter().all(|&f| table.has(f));
        let any = |table: &CpuidTable, level: &[Feature]| level.iter().any(|&f| table.has(f));
        assert!(all(&v2, V1) && all(&v2, V2) && !any(&v2, V3));
        assert!(all(&v3, V1) && all(&v3, V2) && all(&v3, V3));
        assert_eq!(v2.vendor(), vendor);
        assert_eq!(v3.register(0xd, 0, Eax), 7);
        assert_eq!(v2.get(0xd, 0), None);
        assert_eq!(v3.register(0x8000_0008, 0, Eax), 48 << 8 | 39);
        assert_eq!(v3.register(1, 0, Ecx) >> 31, 1);
        assert_eq!(v3.register(0x8000_0002, 0, Eax).to_le_bytes(), *b"x86-");
        // A guest that was started by a named model can move to any host that has the level.
        assert_eq!(v3.features_missing_in(&host), Vec::<String>::new());
    }
}

#[test]
fn what_a_host_lacks_for_a_model_is_named() {
    let without = |names: &[&str]| {
        let keep = |level: &[Feature]| -> Vec<Feature> {
            level
                .iter()
                .copied()
                .filter(|f| !names.contains(&f.name))
                .collect()
        };
        let levels = [V1, V2, V3].map(keep);
        host(Vendor::Intel, &[&levels[0], &levels[1], &levels[2]])
    };
    let lacking = without(&["avx2", "x2apic", "sse4_2"]);
    let Err(Error::MissingCpuFeatures { wanted_by, names }) =
        config(CpuModel::X86_64V3, 1, 1).build(&lacking)
    else {
        panic!("the model was accepted");
    };
    assert_eq!(
        (wanted_by.as_str(), names.join(" ")),
        ("the model x86-64-v3", "sse4_2 x2apic avx2".to_owned())
    );
    assert!(
        config(CpuModel::X86_64V2, 1, 1)
            .build(&without(&["avx2"]))
            .is_ok()
    );
}

#[test]
fn a_saved_table_is_compared_with_the_host() {
    let table = build(&config(CpuModel::Host, 2, 1), &v3_host(Vendor::Amd), 1);
    assert_eq!(
        table.features_missing_in(&v3_host(Vendor::Amd)),
        Vec::<String>::new()
    );
    assert!(
        table
            .features_missing_in(&v3_host(Vendor::Intel))
            .contains(&"an AMD processor".to_owned())
    );
    let lesser = host(Vendor::Amd, &[V1, V2]);
    assert!(
        table
            .features_missing_in(&lesser)
            .contains(&"avx2".to_owned())
    );
}

#[test]
fn impossible_topologies_are_refused() {
    let refused = |vcpus, threads_per_core| {
        let result = config(CpuModel::Host, vcpus, threads_per_core).build(&v3_host(Vendor::Amd));
        matches!(result, Err(Error::Topology { .. }))
    };
    assert!(refused(0, 1) && refused(255, 1) && refused(u32::MAX, 1));
    assert!(refused(3, 2) && refused(4, 0) && refused(4, 3) && refused(8, 4));
    assert!(!refused(254, 2) && !refused(1, 1));
}

#[test]
fn models_have_names() {
    for model in [CpuModel::Host, CpuModel::X86_64V2, CpuModel::X86_64V3] {
        assert_eq!(model.to_string().parse(), Ok(model));
    }
    assert!(
        "x86-64-v9"
            .parse::<CpuModel>()
            .unwrap_err()
            .contains("x86-64-v9")
    );
}
