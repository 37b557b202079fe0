//! Any frame, header and all, in any pieces, from the driver.
//!
//! The stored inputs lie in `tests/fuzz/corpus/send`:
//! `tools/fuzz net send`.
#![no_main]

#[path = "../../tests/fuzz/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::send(input));
