//! The tables of fixed shape: FADT and MADT.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::platform::Platform;
use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, table};

/// The FADT of a hardware-reduced platform (ACPI 6.5, 5.2.9 and 4.1): Linux then leaves 8259, PIT
/// and PM timer alone. It is told what else of a PC is not there (IAPC_BOOT_ARCH, 5.2.9.3; the bits
/// for legacy devices and an 8042 stay clear).
pub(super) fn fadt(platform: &Platform, dsdt: u64) -> FADT {
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_RTC: u16 = 1 << 5;

    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Both buttons would be devices; there are none among the fixed registers.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    let no_rtc = if platform.cmos_rtc { 0 } else { NO_CMOS_RTC };
    fadt.iapc_boot_arch = (NO_VGA | no_rtc).into();
    fadt.sleep_control_reg = port(platform.power.sleep_control);
    fadt.sleep_status_reg = port(platform.power.sleep_status);
    fadt.reset_reg = port(platform.power.reset.0);
    fadt.reset_value = platform.power.reset.1;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"STRATA\0\0").into();
    fadt.finalize()
}

fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}

/// The MADT (ACPI 6.5, 5.2.12): processors by local APIC, those with ids of more than eight bits by
/// local x2APIC, and the I/O APIC. PCAT_COMPAT is clear: there is no 8259.
pub(super) fn madt(platform: &Platform) -> Vec<u8> {
    const REVISION: u8 = 5;
    const LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const LOCAL_X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    /// 255 is the broadcast id.
    const MAX_APIC: u32 = 254;

    let mut body = Vec::with_capacity(32 + platform.cpus.len() * 16);
    body.extend_from_slice(&platform.local_apic.to_le_bytes());
    body.extend_from_slice(&0_u32.to_le_bytes());
    for (uid, &apic) in (0_u32..).zip(&platform.cpus) {
        if apic <= MAX_APIC && uid <= MAX_APIC {
            body.extend_from_slice(&[LOCAL_APIC, 8, uid as u8, apic as u8]);
            body.extend_from_slice(&ENABLED.to_le_bytes());
        } else {
            body.extend_from_slice(&[LOCAL_X2APIC, 16, 0, 0]);
            body.extend_from_slice(&apic.to_le_bytes());
            body.extend_from_slice(&ENABLED.to_le_bytes());
            body.extend_from_slice(&uid.to_le_bytes());
        }
    }
    body.extend_from_slice(&[IO_APIC, 12, platform.io_apic.id, 0]);
    body.extend_from_slice(&platform.io_apic.address.to_le_bytes());
    body.extend_from_slice(&platform.io_apic.gsi_base.to_le_bytes());
    table(b"APIC", REVISION, &body)
}
