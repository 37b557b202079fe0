//! Replays the fuzzer's stored inputs.

use std::fs;
use std::path::Path;

use crate::sequence::run;

#[test]
fn stored_inputs_find_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/corpus");
    let inputs: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!inputs.is_empty(), "the corpus is missing");
    for input in inputs {
        run(&fs::read(&input).unwrap());
    }
}
