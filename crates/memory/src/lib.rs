//! Guest RAM: where it lies in the guest's physical address space, what backs it on the host, and
//! which of its pages have been written.
//!
//! ```
//! use strata_memory::{GuestRam, RamConfig, RamLayout};
//! use vm_memory::{Bytes, GuestAddress};
//!
//! let layout = RamLayout { low_end: 0xc000_0000, high_start: 1 << 32 };
//! let ram = GuestRam::new(&RamConfig::new("64MiB".parse()?), &layout)?;
//! ram.memory().write_obj(0x55aa_u16, GuestAddress(0x1fe))?;
//!
//! ram.start_dirty()?;
//! ram.memory().write_obj(1_u8, GuestAddress(0x5000))?;
//! let log = ram.take_dirty()?;
//! let range = log.ranges().next().ok_or("a page was written")?;
//! assert_eq!((range.guest_base, range.len), (GuestAddress(0x5000), 4096));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate knows neither KVM nor a device. [`GuestRam::regions`] gives what a hypervisor's memory
//! slots need, and [`GuestRam::memory`] is a `vm-memory` guest memory that every rust-vmm crate
//! takes.

#![deny(unsafe_code)]

mod config;
mod dirty;
mod error;
mod host;
mod ram;
mod region;
mod size;
mod sys;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use config::{Backing, Pages, RamConfig, RamLayout, RamState};
pub use dirty::{DirtyBitmap, DirtyLog, DirtyRange};
pub use error::Error;
pub use ram::{GuestMemory, GuestRam};
pub use region::Region;
pub use size::MemorySize;

/// Bytes of a small page: the unit of guest RAM, of dirty tracking and of discarding.
pub const PAGE_SIZE: u64 = 4096;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
