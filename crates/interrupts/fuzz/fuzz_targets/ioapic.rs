//! Any sequence of accesses to the IOAPIC, against the reference model.
//!
//! The stored inputs lie in `tests/ioapic/corpus`:
//! `tools/fuzz interrupts ioapic`.
#![no_main]

#[path = "../../tests/ioapic/reference.rs"]
mod reference;
#[path = "../../tests/ioapic/sequence.rs"]
mod sequence;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sequence::run(input));
