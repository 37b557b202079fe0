//! Small guest RAM for tests of crates that work on it.

use crate::{Backing, Error, GuestRam, MemorySize, Pages, RamConfig, RamLayout};

/// Guest RAM of `size` bytes from address 0, in small pages of this process.
///
/// # Errors
/// As [`GuestRam::new`]: `size` must be a multiple of 4096 and not 0.
pub fn ram(size: u64) -> Result<GuestRam, Error> {
    ram_with_gap(size, 0, size.max(crate::PAGE_SIZE))
}

/// Guest RAM with `low` bytes from address 0 and `high` bytes from address `high_start`.
///
/// # Errors
/// As [`GuestRam::new`]: all three must be multiples of 4096, and `low` not 0.
pub fn ram_with_gap(low: u64, high: u64, high_start: u64) -> Result<GuestRam, Error> {
    let size = low.checked_add(high).ok_or(Error::AddressSpace(low))?;
    let config = RamConfig {
        size: MemorySize::new(size),
        backing: Backing::Anonymous(Pages::Small),
    };
    GuestRam::new(
        &config,
        &RamLayout {
            low_end: low,
            high_start,
        },
    )
}
