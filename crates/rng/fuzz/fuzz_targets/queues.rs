//! Any sequence of what a guest does to the device's queues and registers.
//!
//! The stored inputs lie in `tests/corpus`: `tools/fuzz rng queues`.
#![no_main]

#[path = "../../tests/device/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::run(input));
