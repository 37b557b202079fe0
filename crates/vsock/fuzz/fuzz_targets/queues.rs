//! Any sequence of what a guest does to the device's queues and registers.
//!
//! The stored inputs lie in `tests/corpus/queues`: `tools/fuzz vsock queues`.
#![no_main]
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../../tests/device/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::queues(input));
