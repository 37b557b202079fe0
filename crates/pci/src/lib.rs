//! PCI for virtual machine monitors.

#![forbid(unsafe_code)]

mod msi;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use msi::{MsiError, MsiMessage, MsiSink};
