//! A mock driver: a guest that drives a device through the registers, rings and interrupts of the
//! real transport, and one that does all a driver must not do.
//!
//! What goes wrong panics: this is for tests and benches.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod binder;
mod driver;
mod fuzz;
mod hostile;
mod ring;

pub use binder::MockBinder;
pub use driver::{MockDriver, Used};
pub use fuzz::fuzz_queues;
pub use hostile::{Outcome, hostile_suite};
pub use ring::{Buffer, MockQueue, flags};
