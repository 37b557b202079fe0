#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod arch;
mod bytes;
mod cache;
mod compress;
mod error;
mod initrd;
mod kernel;
mod source;
#[cfg(feature = "test-utils")]
pub mod test_utils;

#[cfg(target_arch = "x86_64")]
pub use arch::x86_64::{Boot, Entry, MemoryKind, MemoryRange, memory_map};
pub use cache::{Cache, Warning};
pub use compress::Compression;
pub use error::{Error, Result};
pub use initrd::Initrd;
pub use kernel::{Kernel, Limits, Protocol};
