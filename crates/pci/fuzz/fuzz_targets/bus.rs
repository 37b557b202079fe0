//! Any sequence of accesses to a bus, its hot-plug registers and an MSI-X table.
//!
//! The stored inputs lie in `tests/pci/corpus`:
//! `tools/fuzz pci bus`.
#![no_main]
#![allow(clippy::unwrap_used)]

#[path = "../../tests/pci/sequence.rs"]
mod sequence;
#[path = "../../tests/pci/toy.rs"]
mod toy;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::run(input));
