//! The machine as ACPI describes it, in plain data.

use crate::error::{Error, Result};

/// A machine. Whatever it does not name does not exist: no 8259, 8042, VGA or HPET, and no timer
/// of the PC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Local APIC ids of the processors, whose ACPI ids are their positions.
    pub cpus: Vec<u32>,
    /// Guest-physical base of the local APICs.
    pub local_apic: u32,
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// 16550 serial ports.
    pub serial: Vec<Serial>,
    /// Sleep and reset registers.
    pub power: PowerRegisters,
    /// GSI of the power button, raised by an edge.
    pub power_button: Option<u32>,
    /// More events: each notifies a device when its GSI is raised.
    pub events: Vec<Event>,
    /// Whether there is a CMOS real-time clock at ports 0x70 and 0x71.
    pub cmos_rtc: bool,
    /// The PCI configuration window.
    pub ecam: Option<Ecam>,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApic {
    /// Its APIC id.
    pub id: u8,
    /// Guest-physical address.
    pub address: u32,
    /// The GSI of its first pin.
    pub gsi_base: u32,
}

/// A 16550 serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// First of eight I/O ports.
    pub port: u16,
    /// Its edge-triggered interrupt.
    pub gsi: u32,
}

/// I/O ports of a hardware-reduced platform's power management (ACPI 6.5, 4.8.3.6 and 4.8.3.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerRegisters {
    /// SLEEP_CONTROL_REG, one byte. Power-off is a write of [`PowerRegisters::POWER_OFF`].
    pub sleep_control: u16,
    /// SLEEP_STATUS_REG, one byte.
    pub sleep_status: u16,
    /// RESET_REG, one byte, with the value to write.
    pub reset: (u16, u8),
}

impl PowerRegisters {
    /// The sleep type of soft-off, the state S5.
    pub const S5: u8 = 5;
    /// What Linux writes to SLEEP_CONTROL_REG to power off: the type S5 and SLP_EN.
    pub const POWER_OFF: u8 = Self::S5 << 2 | 1 << 5;
}

/// An interrupt that stands for a notification of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its edge-triggered interrupt.
    pub gsi: u32,
    /// Absolute path of the device, `\_SB_.VGEN` for example.
    pub device: String,
    /// The notification's value (ACPI 6.5, 5.6.6).
    pub value: u8,
}

/// A PCI Express enhanced configuration window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Guest-physical address of bus 0.
    pub base: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

impl Platform {
    pub(super) fn check(&self) -> Result<()> {
        let valid = |ok: bool, what| {
            if ok {
                Ok(())
            } else {
                Err(Error::Platform { what })
            }
        };
        valid(!self.cpus.is_empty(), "it has no processor")?;
        valid(self.serial.len() <= 4, "it has more than four serial ports")?;
        valid(self.events.len() <= 64, "it has more than 64 events")?;
        let paths = self.events.iter().all(|event| is_path(&event.device));
        valid(
            paths,
            "an event's device is not an absolute path of four-letter names",
        )
    }
}

/// ACPI 6.5, 20.2.2: names of four characters, of which the first is no digit.
fn is_path(path: &str) -> bool {
    let lead = |b: u8| b.is_ascii_uppercase() || b == b'_';
    let name = |name: &str| {
        let bytes = name.as_bytes();
        bytes.len() == 4 && lead(bytes[0]) && bytes.iter().all(|&b| lead(b) || b.is_ascii_digit())
    };
    path.strip_prefix('\\')
        .is_some_and(|path| path.split('.').all(name))
}
