//! `cargo +nightly fuzz run header tests/corpus/header` in the crate's directory.
#![no_main]

#[path = "../../tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::exercise(data));
