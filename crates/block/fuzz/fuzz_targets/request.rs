//! Headers, sizes and ranges of requests: `tools/fuzz block request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    strata_block::test_utils::exercise(data);
});
