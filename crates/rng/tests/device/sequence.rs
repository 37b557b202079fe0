//! The fuzz target's body, which the stored inputs share.

use strata_rng::Rng;
use strata_virtio::test_utils::{MockDriver, fuzz_queues};

pub(crate) fn run(input: &[u8]) {
    let mut driver = MockDriver::new(Box::new(Rng::new(std::io::repeat(7))));
    fuzz_queues(&mut driver, input);
    driver.start(u64::MAX);
    assert_eq!(driver.request(0, &[], &[4]).written, [7; 4]);
}
