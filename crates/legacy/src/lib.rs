//! The small devices that a PC's software expects beside PCI: a 16550 serial port, the CMOS clock,
//! the power registers and the event device of hardware-reduced ACPI, the keyboard controller's
//! reset and pvpanic.
//!
//! Each device is a core without interrupt controller, thread or hypervisor. It is generic over
//! what it needs of the machine: a [`Trigger`] for an interrupt, a [`Clock`], an [`io::Write`].
//! The machine puts it at its ports, and acts on the [`Event`]s that a guest's writes bring about.
//!
//! ```
//! use strata_legacy::{AcpiPower, Device, Event};
//!
//! let mut power = AcpiPower::new();
//! let command = AcpiPower::SLEEP_ENABLE | AcpiPower::S5 << AcpiPower::SLEEP_TYPE_SHIFT;
//! let event = power.write(AcpiPower::SLEEP_CONTROL, &[command])?;
//! assert_eq!(event, Some(Event::PowerOff));
//! # Ok::<(), strata_legacy::Error>(())
//! ```
//!
//! [`io::Write`]: std::io::Write

#![forbid(unsafe_code)]

mod acpi_power;
mod device;
mod error;
mod event_device;
pub mod layout;
mod pvpanic;
mod reset_port;
mod rtc;
mod serial;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use acpi_power::{AcpiPower, AcpiPowerState};
pub use device::{Device, Event};
pub use error::Error;
pub use event_device::{EventDevice, EventDeviceState};
pub use pvpanic::Pvpanic;
pub use reset_port::ResetPort;
pub use rtc::{Clock, Rtc, RtcState, SystemClock};
pub use serial::{Serial, SerialState};
pub use vm_superio::Trigger;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
