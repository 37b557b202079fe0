//! A whole image.
#![no_main]

#[path = "../../tests/hostile_body/mod.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::exercise(data));
