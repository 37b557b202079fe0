//! Any sequence of packets, receive buffers, and what programs of the host's do.
//!
//! The stored inputs lie in `tests/corpus/packets`: `tools/fuzz vsock packets`.
#![no_main]
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../../tests/device/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::packets(input));
