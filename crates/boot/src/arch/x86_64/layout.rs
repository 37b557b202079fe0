//! Guest-physical addresses that are the same in every guest.
//!
//! Everything that is written for the kernel lies in the first 2 MiB, so that the host touches one
//! huge page for all of it.

/// Descriptor and page tables, see [`super::tables`].
pub const TABLES: u64 = 0x1000;
/// PVH's `hvm_start_info`, its module list and its memory map, one page.
pub const START_INFO: u64 = 0x6000;
/// Linux's zero page, `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the stack at entry; it grows down over an unused page.
pub const STACK_TOP: u64 = 0x9000;
/// The command line, up to [`COMMAND_LINE_SIZE`] bytes with its terminator.
pub const COMMAND_LINE: u64 = 0x20000;
/// Room for the command line.
pub const COMMAND_LINE_SIZE: usize = 0x10000;
/// End of conventional memory; a BIOS would keep its extended data area from here on.
pub const LOW_RAM_END: u64 = 0x9fc00;
/// Where VGA memory would be.
pub const VGA: u64 = 0xa0000;
/// The machine's generation identifier, a page that belongs to no table.
pub const GENERATION_ID: u64 = 0xdf000;
/// The ACPI tables, the RSDP first.
pub const ACPI: u64 = 0xe0000;
/// Room for the ACPI tables.
pub const ACPI_SIZE: usize = 0x20000;
/// From here on kernels and initrds may lie.
pub const HIGH_RAM: u64 = 0x10_0000;
/// Kernels end before it: what is identity-mapped at entry.
pub const MAPPED_END: u64 = 1 << 30;
