//! Any sequence of what a guest does to the card's queues and registers.
//!
//! The stored inputs lie in `tests/fuzz/corpus/queues`:
//! `tools/fuzz net queues`.
#![no_main]

#[path = "../../tests/fuzz/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::queues(input));
