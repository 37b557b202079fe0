//! Replays the stored fuzzing corpus.

#![allow(clippy::unwrap_used, clippy::panic)] // A failed step is a failed test.

mod exercise;

#[test]
fn every_stored_input_is_handled() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/seed");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        exercise::exercise(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 8, "the corpus is missing");
}
