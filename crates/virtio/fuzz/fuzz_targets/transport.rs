//! Any sequence of register accesses, writes to the rings, kicks and resets.
//!
//! The stored inputs lie in `tests/device/corpus`:
//! `tools/fuzz virtio transport`.
#![no_main]
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../../tests/device/echo.rs"]
mod echo;
#[path = "../../tests/device/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::run(input));
