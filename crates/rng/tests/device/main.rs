//! The entropy device, driven by the mock driver.

#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor, Read};

use strata_rng::{MAX_REQUEST, Rng};
use strata_virtio::test_utils::{MockDriver, hostile_suite};

mod sequence;

/// 0, 1, 2 and so on.
struct Count(u8);

impl Read for Count {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *out {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(out.len())
    }
}

#[test]
fn a_guest_gets_the_bytes_of_the_source_in_order() {
    let mut driver = MockDriver::new(Box::new(Rng::new(Count(0))));
    driver.start(u64::MAX);
    let used = driver.request(0, &[], &[3, 5]);
    assert_eq!(
        (used.len, &used.written[..]),
        (8, &[0, 1, 2, 3, 4, 5, 6, 7][..])
    );
    let used = driver.request(0, &[], &[1]);
    assert_eq!(used.written, [8]);
    // The source is the same after a reset.
    driver.start(0);
    assert_eq!(driver.request(0, &[], &[1]).written, [9]);
}

#[test]
fn a_request_gets_4096_bytes_at_most() {
    let mut driver = MockDriver::new(Box::new(Rng::new(Count(0))));
    driver.start(u64::MAX);
    let used = driver.request(0, &[], &[MAX_REQUEST as u32, 100]);
    assert_eq!(used.len as usize, MAX_REQUEST);
    assert_eq!(used.written[MAX_REQUEST..], [0xaa; 100]);
}

#[test]
fn more_requests_than_a_batch_are_all_answered() {
    let mut driver = MockDriver::new(Box::new(Rng::new(Count(0))));
    driver.start(u64::MAX);
    for _ in 0..64 {
        driver.add(0, &[], &[1]);
    }
    driver.kick(0);
    let drawn: Vec<_> = (0..64).map(|_| driver.wait_used(0).written[0]).collect();
    assert!(drawn.into_iter().eq(0..64));
}

#[test]
fn a_source_that_ends_breaks_the_device_instead_of_giving_zeroes() {
    let mut driver = MockDriver::new(Box::new(Rng::new(Cursor::new([7; 4]))));
    driver.start(u64::MAX);
    assert_eq!(driver.request(0, &[], &[4]).written, [7; 4]);
    driver.add(0, &[], &[4]);
    driver.kick(0);
    driver.wait_needs_reset();
    assert!(driver.take_used(0).is_none());
}

#[test]
fn a_request_without_room_is_the_drivers_fault() {
    let mut driver = MockDriver::new(Box::new(Rng::new(Count(0))));
    driver.start(u64::MAX);
    driver.add(0, &[b"to read"], &[]);
    driver.kick(0);
    driver.wait_needs_reset();
}

#[test]
fn hostile_rings_break_the_device_and_no_more() {
    for outcome in hostile_suite(|| Box::new(Rng::new(Count(0)))) {
        assert!(outcome.broken || !outcome.must_break, "{outcome:?}");
    }
}

#[test]
fn stored_inputs_find_nothing() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        sequence::run(&std::fs::read(input.unwrap().path()).unwrap());
    }
}
