//! The data of a compressed cluster.
#![no_main]

#[path = "../../tests/hostile_body/mod.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::exercise(&body::replaced(body::Part::Compressed, data));
});
