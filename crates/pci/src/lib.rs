#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod acpi;
mod allocator;
mod bar;
mod bus;
mod capability;
mod config;
mod error;
mod function;
mod host_bridge;
mod hot_plug;
mod msi;
mod msix;
mod slot;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use bar::{Bar, BarKind, BarRange};
pub use bus::{Bus, BusLayout};
pub use capability::Capability;
pub use config::{ConfigSpace, ConfigState, Identity};
pub use error::Error;
pub use function::Function;
pub use host_bridge::HostBridge;
pub use hot_plug::{HotPlug, HotPlugEvents, HotPlugState};
pub use msi::{MsiError, MsiMessage, MsiSink};
pub use msix::{Msix, MsixState, MsixVectorState};
