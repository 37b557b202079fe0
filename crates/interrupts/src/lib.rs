#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod arch;
mod clock;
mod controller;
mod error;
mod gsi;
mod handle;
pub mod ioapic;
mod irqfd;
mod msi;
mod state;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use arch::{KernelChips, KernelIoapicState, PicState};
pub use clock::{ClockPolicy, ClockState};
pub use controller::{Controller, Kind};
pub use error::Error;
pub use handle::{Interrupt, IrqLine};
pub use msi::MsiMessage;
pub use state::{ChipState, ControllerState, MsiState};
