use strata_virtio::features;
use strata_virtio::test_utils::MockDriver;

use crate::echo::Echo;

#[test]
fn requests_are_answered() {
    for wanted in [0, u64::MAX, features::RING_EVENT_IDX] {
        let mut driver = MockDriver::new(Box::new(Echo::new()));
        driver.start(wanted);
        for round in 0..1000_u32 {
            let queue = (round % 2) as u16;
            let bytes = round.to_le_bytes();
            let used = driver.request(queue, &[&bytes[..1], &bytes[1..]], &[3, 5]);
            assert_eq!((used.len, &used.written[..4]), (4, &bytes[..]));
            assert_eq!(used.written[4..], [0xaa; 4]);
        }
        driver.reset();
    }
}
