//! Any sequence of requests to a device: `tools/fuzz block device`.
#![no_main]
#![allow(clippy::unwrap_used)]

#[path = "../../tests/sequence/mod.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sequence::run(data));
