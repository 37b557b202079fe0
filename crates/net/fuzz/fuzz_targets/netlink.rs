//! Anything that the kernel may answer about its tables.
//!
//! The stored inputs lie in `tests/fuzz/corpus/netlink`:
//! `tools/fuzz net netlink`.
#![no_main]

#[path = "../../tests/fuzz/exercise.rs"]
#[allow(dead_code)]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::netlink(input));
