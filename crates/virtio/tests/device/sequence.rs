//! The fuzz target's body, which the stored inputs share.

use strata_virtio::test_utils::{MockDriver, fuzz_queues};

use crate::echo::Echo;

/// Whatever was done, the device must reset and serve a driver that behaves.
pub(crate) fn run(input: &[u8]) {
    let mut driver = MockDriver::new(Box::new(Echo::new()));
    fuzz_queues(&mut driver, input);
    driver.start(u64::MAX);
    assert_eq!(driver.request(1, &[b"alive"], &[5]).written, b"alive");
}
