//! Random operations on all devices. The body is the tests' own.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/replay/mod.rs"]
mod replay;

fuzz_target!(|bytes: &[u8]| replay::run(&replay::decode(bytes, None)));
