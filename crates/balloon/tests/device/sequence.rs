//! The fuzz target's body, which the stored inputs share.

use std::sync::Arc;

use strata_balloon::{Balloon, BalloonConfig};
use strata_virtio::test_utils::{MockDriver, fuzz_queues};

pub(crate) fn run(input: &[u8]) {
    let ram = strata_memory::test_utils::ram(16 << 20);
    let ram = Arc::new(ram.unwrap());
    let balloon = Balloon::new(ram.clone(), BalloonConfig::default());
    let mut driver = MockDriver::with_ram(Box::new(balloon.unwrap()), ram);
    fuzz_queues(&mut driver, input);
    driver.start(u64::MAX);
    driver.request(0, &[&3000_u32.to_le_bytes()], &[]);
}
