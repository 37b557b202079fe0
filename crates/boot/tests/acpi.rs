//! The ACPI tables: sums, links, and the disassembler's and compiler's opinion.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use strata_boot::Error;
use strata_boot::acpi::{
    Aml, Ecam, Event, GenerationId, IoApic, Platform, PowerRegisters, Pvpanic, Serial, Tables,
};

const AT: u64 = 0xe0000;
const ROOM: usize = 0x20000;

fn platform() -> Platform {
    Platform {
        cpus: vec![0, 1, 2, 300],
        local_apic: 0xfee0_0000,
        io_apic: IoApic {
            id: 0,
            address: 0xfec0_0000,
            gsi_base: 0,
        },
        serial: vec![Serial {
            port: 0x3f8,
            gsi: 4,
        }],
        power: PowerRegisters {
            sleep_control: 0x600,
            sleep_status: 0x601,
            reset: (0x602, 1),
        },
        power_button: Some(9),
        events: vec![Event {
            gsi: 10,
            device: GenerationId::PATH.into(),
            value: GenerationId::CHANGED,
        }],
        cmos_rtc: false,
        ecam: Some(Ecam {
            base: 0xe000_0000,
            segment: 0,
            first_bus: 0,
            last_bus: 255,
        }),
    }
}

/// One of them is notified by an event.
const DEVICES: [&dyn Aml; 2] = [&GenerationId { address: 0xdf000 }, &Pvpanic { port: 0x505 }];

fn tables() -> Tables {
    platform().tables(&DEVICES, AT, ROOM).unwrap()
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// The table at a guest-physical address, its sum checked.
fn table(tables: &Tables, addr: u64) -> &[u8] {
    let bytes = &tables.bytes[(addr - AT) as usize..];
    let bytes = &bytes[..u32_of(bytes, 4) as usize];
    assert_eq!(sum(bytes), 0, "{:?}", str::from_utf8(&bytes[..4]));
    bytes
}

/// All tables that the RSDP leads to, the DSDT first.
fn all(tables: &Tables) -> Vec<&[u8]> {
    let rsdp = &tables.bytes[..36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    assert_eq!(rsdp[15], 2);
    let xsdt = table(tables, u64_of(rsdp, 24));
    let mut found: Vec<_> = xsdt[36..]
        .chunks(8)
        .map(|a| table(tables, u64_of(a, 0)))
        .collect();
    let fadt = found.iter().find(|t| t.starts_with(b"FACP")).unwrap();
    found.insert(0, table(tables, u64_of(fadt, 140)));
    found
}

#[test]
fn every_table_is_linked_and_sums_to_zero() {
    let tables = tables();
    let signatures: Vec<_> = all(&tables)
        .iter()
        .map(|t| str::from_utf8(&t[..4]).unwrap())
        .collect();
    assert_eq!(signatures, ["DSDT", "FACP", "APIC", "MCFG"]);
}

#[test]
fn fadt_says_what_a_pc_would_have_and_this_has_not() {
    let tables = tables();
    let fadt = all(&tables)[1];
    let boot_arch = u16::from_le_bytes([fadt[109], fadt[110]]);
    // No VGA, no CMOS RTC; neither legacy devices nor an 8042; MSI allowed.
    assert_eq!(boot_arch, 1 << 2 | 1 << 5);
    let flags = u32_of(fadt, 112);
    for bit in [4, 5, 10, 12, 20] {
        assert_ne!(flags & 1 << bit, 0, "{bit}");
    }
    let register = |at: usize| (fadt[at], fadt[at + 1], fadt[at + 3], u64_of(fadt, at + 4));
    assert_eq!(register(116), (1, 8, 1, 0x602));
    assert_eq!(fadt[128], 1);
    assert_eq!(register(244), (1, 8, 1, 0x600));
    assert_eq!(register(256), (1, 8, 1, 0x601));

    let with_rtc = Platform {
        cmos_rtc: true,
        ..platform()
    }
    .tables(&[], AT, ROOM)
    .unwrap();
    let fadt = all(&with_rtc)[1];
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 2);
}

#[test]
fn madt_lists_processors_by_the_width_of_their_ids() {
    let tables = tables();
    let madt = all(&tables)[2];
    assert_eq!((u32_of(madt, 36), u32_of(madt, 40)), (0xfee0_0000, 0));
    assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(madt[60..68], [0, 8, 2, 2, 1, 0, 0, 0]);
    assert_eq!(
        madt[68..84],
        [9, 16, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]
    );
    assert_eq!(madt[84..96], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(madt.len(), 96);
}

#[test]
fn mcfg_names_the_window() {
    let tables = tables();
    let mcfg = all(&tables)[3];
    assert_eq!(u64_of(mcfg, 44), 0xe000_0000);
    assert_eq!(mcfg[54..56], [0, 255]);
}

#[test]
fn what_cannot_be_described_is_refused() {
    let none = Platform {
        cpus: vec![],
        ..platform()
    };
    assert!(matches!(
        none.tables(&[], AT, ROOM),
        Err(Error::Platform { .. })
    ));
    for device in [
        "_SB_.VGEN",
        "\\_SB_.VGE",
        "\\_SB_.1GEN",
        "\\_sb_.VGEN",
        "\\",
        "",
    ] {
        let events = vec![Event {
            gsi: 1,
            device: device.into(),
            value: 1,
        }];
        let bad = Platform {
            events,
            ..platform()
        };
        assert!(
            matches!(bad.tables(&[], AT, ROOM), Err(Error::Platform { .. })),
            "{device}"
        );
    }
    let many = Platform {
        cpus: (0..10_000).collect(),
        ..platform()
    };
    assert!(matches!(
        many.tables(&[], AT, ROOM),
        Err(Error::AcpiTooLarge { .. })
    ));
}

/// Linux reads these tables with ACPICA, and iasl is ACPICA's own reader and writer: it must take
/// each table apart without a complaint, and what it takes the DSDT for must compile to the same.
#[test]
fn iasl_agrees() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("iasl is not installed (acpica-tools): nothing is compared");
        return;
    }
    for cmos_rtc in [false, true] {
        let tables = Platform {
            cmos_rtc,
            ..platform()
        }
        .tables(&DEVICES, AT, ROOM)
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            let out = Command::new("iasl")
                .args(args)
                .current_dir(dir.path())
                .output()
                .unwrap();
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
            assert!(out.status.success(), "{args:?}: {text}");
            text
        };
        for bytes in all(&tables) {
            let name = str::from_utf8(&bytes[..4]).unwrap();
            std::fs::write(dir.path().join(format!("{name}.aml")), bytes).unwrap();
            run(&["-d", &format!("{name}.aml")]);
            let text = std::fs::read_to_string(dir.path().join(format!("{name}.dsl"))).unwrap();
            assert!(!text.to_lowercase().contains("invalid"), "{text}");
        }
        let dsdt = std::fs::read_to_string(dir.path().join("DSDT.dsl")).unwrap();
        for part in [
            "_S5, Package",
            "Device (COM1)",
            "Device (PWRB)",
            "Device (GED)",
            "Notify (\\_SB.PWRB, 0x80",
            "Notify (\\_SB.VGEN, 0x80",
            "VM_Gen_Counter",
            "QEMU0001",
        ] {
            assert!(dsdt.contains(part), "{part} is not in {dsdt}");
        }
        assert_eq!(dsdt.contains("PNP0B00"), cmos_rtc, "{dsdt}");
        let opinion = run(&["-oa", "-p", "again", "DSDT.dsl"]);
        assert!(
            opinion.contains("0 Errors, 0 Warnings, 0 Remarks"),
            "{opinion}"
        );
        let again = std::fs::read(dir.path().join("again.aml")).unwrap();
        // Behind the header, where the compiler puts its own name.
        assert_eq!(again[36..], all(&tables)[0][36..], "{dsdt}");
    }
}
