//! Named models: the same answers on every host of a vendor that has the level's features, so
//! that a guest can move between them.

use super::config::CpuModel;
use super::features::{AMD_REPEATED, Feature, MTRR, TOPOEXT, V1, V2, V3};
use super::table::{CpuidEntry, CpuidTable, Register, Vendor};
use crate::error::{Error, Result};

/// 512 GiB of guest-physical addresses, which all processors with the second level have.
const PHYS_BITS: u32 = 39;
const VIRT_BITS: u32 = 48;

/// Family, model and stepping, whose errata a guest works round: Zen, Haswell and Nehalem, the
/// oldest processors of their level.
const ZEN: u32 = 0x0080_0f12;
const HASWELL: u32 = 0x0003_06f2;
const NEHALEM: u32 = 0x0001_06a5;

/// A cache: type (1 data, 2 instructions, 3 both), level, ways, sets; lines have 64 bytes.
const CACHES: [[u32; 4]; 4] = [
    [1, 1, 8, 64],
    [2, 1, 8, 64],
    [3, 2, 8, 1024],
    [3, 3, 16, 16384],
];

fn levels(model: CpuModel) -> &'static [&'static [Feature]] {
    match model {
        CpuModel::X86_64V3 => &[V1, V2, V3],
        _ => &[V1, V2],
    }
}

/// The table of a named model, or what the host lacks for it.
pub(super) fn build(model: CpuModel, mtrr: bool, supported: &CpuidTable) -> Result<CpuidTable> {
    let vendor = supported.vendor();
    let mut table = skeleton(model, vendor, supported);
    for feature in levels(model).iter().copied().flatten() {
        table.set(*feature, true);
    }
    let mut names = table.features_missing_in(supported);
    let width = supported.register(0x8000_0008, 0, Register::Eax) & 0xff;
    if width < PHYS_BITS {
        names.push(format!("{PHYS_BITS} bits of physical address"));
    }
    if !names.is_empty() {
        return Err(Error::MissingCpuFeatures {
            wanted_by: format!("the model {model}"),
            names,
        });
    }
    table.set(MTRR, mtrr);
    if vendor == Vendor::Amd {
        table.set(TOPOEXT, true);
        let repeated = table.register(1, 0, Register::Edx) & AMD_REPEATED;
        if let Some(leaf) = table.get_mut(0x8000_0001, 0) {
            leaf.edx |= repeated;
        }
    }
    Ok(table)
}

/// All leaves of a model but for the feature bits.
fn skeleton(model: CpuModel, vendor: Vendor, supported: &CpuidTable) -> CpuidTable {
    let v3 = model == CpuModel::X86_64V3;
    let leaf = CpuidEntry::leaf;
    let vendor_id = |function| {
        let id = |register| supported.register(0, 0, register);
        let [b, c, d] = [Register::Ebx, Register::Ecx, Register::Edx].map(id);
        // Intel leaves the name out of the first extended leaf.
        let named = function == 0 || vendor == Vendor::Amd;
        leaf(function, if named { [0, b, c, d] } else { [0; 4] })
    };
    let signature = match (vendor, v3) {
        (Vendor::Amd, _) => ZEN,
        (Vendor::Intel, true) => HASWELL,
        (Vendor::Intel, false) => NEHALEM,
    };
    let extended_signature = if vendor == Vendor::Amd { ZEN } else { 0 };
    let mut entries = vec![
        vendor_id(0),
        leaf(1, [signature, 0, 0, 0]),
        leaf(6, [0; 4]),
        CpuidEntry::subleaf(7, 0, [0; 4]),
        leaf(0x4000_0000, kvm_signature(supported)),
        leaf(0x4000_0001, [0; 4]),
        vendor_id(0x8000_0000),
        leaf(0x8000_0001, [extended_signature, 0, 0, 0]),
        leaf(0x8000_0008, [PHYS_BITS | VIRT_BITS << 8, 0, 0, 0]),
    ];
    entries.extend(brand(model));
    entries.extend(caches(vendor));
    if v3 {
        // XSAVE areas (SDM volume 1, 13.4): 512 bytes of legacy area, 64 of header, 256 of AVX.
        entries.push(CpuidEntry::subleaf(0xd, 0, [0, 832, 832, 0]));
        entries.push(CpuidEntry::subleaf(0xd, 1, [0; 4]));
        entries.push(CpuidEntry::subleaf(0xd, 2, [256, 576, 0, 0]));
    }
    entries.into_iter().collect()
}

fn kvm_signature(supported: &CpuidTable) -> [u32; 4] {
    supported
        .get(0x4000_0000, 0)
        .map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
}

/// The 48 bytes of the processor's name in three leaves.
fn brand(model: CpuModel) -> impl Iterator<Item = CpuidEntry> {
    let mut name = model.to_string().into_bytes();
    name.resize(48, 0);
    (0x8000_0002..)
        .zip(
            name.chunks_exact(16)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>(),
        )
        .map(|(function, bytes)| {
            let word = |i: usize| {
                bytes[4 * i..4 * i + 4]
                    .iter()
                    .rev()
                    .fold(0, |word, &b| word << 8 | u32::from(b))
            };
            CpuidEntry::leaf(function, [word(0), word(1), word(2), word(3)])
        })
}

/// The caches in leaf 4 or 0x8000_001D, and for AMD in the older leaves too.
fn caches(vendor: Vendor) -> Vec<CpuidEntry> {
    const SELF_INITIALIZING: u32 = 1 << 8;
    let function = if vendor == Vendor::Amd {
        0x8000_001d
    } else {
        4
    };
    let mut entries: Vec<_> = (0..)
        .zip(CACHES)
        .map(|(index, [kind, level, ways, sets])| {
            let eax = kind | level << 5 | SELF_INITIALIZING;
            CpuidEntry::subleaf(function, index, [eax, (ways - 1) << 22 | 63, sets - 1, 0])
        })
        .collect();
    match vendor {
        // One descriptor: "see leaf 4" (SDM volume 2, table 3-12).
        Vendor::Intel => entries.push(CpuidEntry::leaf(2, [0x00ff_0001, 0, 0, 0])),
        // KiB, ways, lines per tag, line size of L1; L2 and L3 (APM volume 3, E.4.4 and E.4.5).
        Vendor::Amd => entries.extend([
            CpuidEntry::leaf(0x8000_0005, [0, 0, 0x2008_0140, 0x2008_0140]),
            CpuidEntry::leaf(0x8000_0006, [0, 0, 0x0200_6140, 0x0080_8140]),
            CpuidEntry::leaf(0x8000_001e, [0, 0, 0, 0]),
        ]),
    }
    entries
}
