//! All that a driver must not do.

mod chains;
mod registers;

use std::time::{Duration, Instant};

use super::driver::MockDriver;
use crate::device::Device;

/// What became of a device that was given something hostile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The queue, or `None` where it was no queue's affair.
    pub queue: Option<u16>,
    /// What was done.
    pub case: &'static str,
    /// Whether the ring is one that no driver may build, so that a device that looks at the chain
    /// has to say that it is broken.
    pub must_break: bool,
    /// Whether the device said so.
    pub broken: bool,
}

/// How long a device has to say that it is broken, or to give the chain back. One that does neither
/// did not look at the queue: it waits for the host (a frame to receive), and is not waited for as
/// long again.
const PATIENCE: Duration = Duration::from_millis(500);
const LESS_PATIENCE: Duration = Duration::from_millis(40);

/// Drives devices from `make` through every misuse of their queues and registers: loops, empty
/// buffers, wrong directions, addresses outside of memory, all that is wrong with indirect tables,
/// changes after DRIVER_OK, resets with requests in flight, sizes and places that no queue can have,
/// rings in MMIO, random ones, and ones that change while they are read.
///
/// After each, the device must reset and start again. At most the first four queues and the last are
/// tried. The outcomes are returned, for a test to look at: a device that looks at its queues by
/// itself is broken in all cases where it must be.
///
/// # Panics
/// If a device does not do what every device must: end a reset, start again, keep its registers.
pub fn hostile_suite(make: impl Fn() -> Box<dyn Device>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let count = MockDriver::new(make()).num_queues();
    for queue in (0..count).filter(|queue| *queue < 4 || queue + 1 == count) {
        let mut driver = MockDriver::new(make());
        let mut patience = PATIENCE;
        for case in chains::CASES {
            driver.start(u64::MAX);
            (case.build)(&mut driver, queue);
            driver.force_kick(queue);
            outcomes.push(Outcome {
                queue: Some(queue),
                case: case.name,
                must_break: case.must_break,
                broken: wait_outcome(&mut driver, queue, &mut patience),
            });
            starts_again(&mut driver, case.name);
        }
        chains::random(&mut driver, queue);
        starts_again(&mut driver, "random rings");
        chains::changing(&mut driver, queue);
        starts_again(&mut driver, "rings that change");
        outcomes.extend(registers::places(&mut driver, queue));
    }
    let mut driver = MockDriver::new(make());
    registers::after_driver_ok(&mut driver);
    registers::status(&mut driver);
    registers::config_space(&mut driver);
    registers::kicks(&mut driver);
    registers::resets_in_flight(&mut driver);
    starts_again(&mut driver, "resets in flight");
    outcomes
}

/// Waits until the device is broken or gives a chain back, and says whether it is broken.
fn wait_outcome(driver: &mut MockDriver, queue: u16, patience: &mut Duration) -> bool {
    let end = Instant::now() + *patience;
    while Instant::now() < end {
        if driver.needs_reset() {
            return true;
        }
        if driver.queue(queue).used_idx() != 0 {
            return driver.needs_reset();
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    *patience = LESS_PATIENCE;
    driver.needs_reset()
}

/// A device must come back from anything by a reset (virtio 1.2, 2.1.2).
fn starts_again(driver: &mut MockDriver, case: &str) {
    driver.reset();
    driver.start(u64::MAX);
    assert!(!driver.needs_reset(), "no fresh start after: {case}");
    driver.reset();
}
