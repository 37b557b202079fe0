//! Any bytes that a client sends, in pieces of any size.
//!
//! The stored inputs lie in `tests/corpus`: `tools/fuzz qmp client`.
#![no_main]
#![allow(clippy::unwrap_used)]

#[path = "../../tests/client/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::run(input));
