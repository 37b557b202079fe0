//! The header, from the magic on.
#![no_main]

#[path = "../../tests/hostile_body/mod.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::exercise(&body::replaced(body::Part::Header, data));
});
