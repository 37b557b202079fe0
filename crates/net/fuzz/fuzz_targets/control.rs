//! Any command on the control queue.
//!
//! The stored inputs lie in `tests/fuzz/corpus/control`:
//! `tools/fuzz net control`.
#![no_main]

#[path = "../../tests/fuzz/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::control(input));
