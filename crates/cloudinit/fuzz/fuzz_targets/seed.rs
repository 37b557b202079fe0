//! `cargo +nightly fuzz run seed tests/corpus/seed` in the crate's directory.
#![no_main]

#[path = "../../tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::exercise(data));
