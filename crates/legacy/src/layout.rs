//! The usual places of the devices on a PC, and what ACPI tables must say of them. A machine may
//! choose others.

/// The first port of the serial port COM1.
pub const COM1: u16 = 0x3f8;
/// The interrupt line (GSI) of COM1.
pub const COM1_IRQ: u32 = 4;

/// The port of the keyboard controller's commands.
pub const RESET_PORT: u16 = 0x64;

/// The first port of the CMOS clock: the index. The next one is the data.
pub const RTC: u16 = 0x70;
/// The index of the century in CMOS, for the FADT.
pub const RTC_CENTURY: u8 = 0x32;

/// The port of pvpanic.
pub const PVPANIC: u16 = 0x505;

/// The first port of the ACPI power registers.
pub const ACPI_POWER: u16 = 0x600;

/// The port of the event device's status register.
pub const EVENT_DEVICE: u16 = 0x604;
/// The bit of a pressed power button in it. The others are free for those who write the DSDT.
pub const POWER_BUTTON: u8 = 1 << 0;
