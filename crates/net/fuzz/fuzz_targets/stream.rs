//! Anything that the far end of a stream may send.
//!
//! The stored inputs lie in `tests/fuzz/corpus/stream`:
//! `tools/fuzz net stream`.
#![no_main]

#[path = "../../tests/fuzz/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::stream(input));
