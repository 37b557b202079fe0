//! The bars that no load moves: instructions up to the first entry and to init, exits and faults,
//! memory, threads, the size of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use strata_lab::{Boot, Cost, Format, Lab};
use strata_tests::strata;

const RUN: [&str; 11] = [
    "run",
    "--kernel",
    "{kernel}",
    "--initrd",
    "{initrd}",
    "--cmdline",
    "{cmdline}",
    "--cpus",
    "{cpus}",
    "--memory",
    "{memory}",
];

/// Boots Linux 6.1 with 256 MiB on one vCPU, counting instructions as time.
fn measure(more: &[&str]) -> Cost {
    let args = RUN.iter().chain(more).map(|arg| (*arg).to_owned());
    let boot = Boot {
        format: Format::Extracted,
        icount: true,
        ..Boot::new(strata(), args.collect())
    };
    let lab = Lab::open(|text| eprintln!("lab: {text}"));
    match lab.and_then(|lab| boot.measure(&lab, 1)) {
        Ok(costs) => costs[0].clone(),
        Err(error) => panic!("{error}"),
    }
}

fn check(cost: &Cost) {
    eprintln!("{cost:?}");
    assert_eq!(cost.threads, 2, "threads: one vCPU and the main one");
    assert!(
        cost.npt_faults <= 100,
        "{} nested page faults",
        cost.npt_faults
    );
    assert!(cost.exits <= 1500, "{} exits", cost.exits);
    assert!(
        cost.vmm_pss_kb <= 2500,
        "{} KiB beside the guest's",
        cost.vmm_pss_kb
    );
    // A boot that counted nothing has not been seen.
    assert!(
        cost.exits > 100 && cost.npt_faults > 0 && cost.vmm_pss_kb > 0,
        "{cost:?}"
    );
}

#[test]
fn a_boot_stays_within_its_bars_with_the_in_kernel_controller() {
    let cost = measure(&[]);
    check(&cost);
    // Seconds of the emulator's clock, which counts instructions: 22 and 450 million of them.
    assert!(cost.first_entry_s <= 0.022, "{} s", cost.first_entry_s);
    assert!(cost.marker_s <= 0.45, "{} s", cost.marker_s);
    assert_eq!(cost.mmio_exits, 0, "KVM has the IOAPIC");
}

#[test]
fn a_boot_stays_within_its_bars_with_the_split_controller() {
    let cost = measure(&["--irqchip", "split"]);
    check(&cost);
    assert!(cost.mmio_exits > 0, "strata has the IOAPIC");
}

#[test]
fn the_program_is_small_and_static() {
    let path = strata();
    let program = fs::read(&path).unwrap();
    assert!(program.len() <= 4_000_000, "{} bytes", program.len());
    assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0);
    let types = segment_types(&program).unwrap();
    // Neither a dynamic loader nor anything for it to read.
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const PT_INTERP: u32 = 3;
    assert!(types.contains(&PT_LOAD), "{types:?}");
    assert!(
        !types.contains(&PT_INTERP) && !types.contains(&PT_DYNAMIC),
        "{types:?}"
    );
}

/// The types of an ELF file's segments (System V ABI, AMD64 supplement: ELF64, little-endian).
fn segment_types(elf: &[u8]) -> Option<Vec<u32>> {
    let short = |at: usize| Some(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let (table, size, count) = (word(0x20)? as usize, short(0x36)?, short(0x38)?);
    (0..count)
        .map(|n| word(table + usize::from(n) * usize::from(size)))
        .collect()
}
