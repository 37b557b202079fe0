//! Fields of L1, L2 and refcount tables, and of everything else that has a place, in images that
//! are sound beside them.
#![no_main]

#[path = "../../tests/hostile_body/mod.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(image) = body::patched(data) {
        body::exercise(&image);
    }
});
