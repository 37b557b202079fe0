//! Replays the fuzzer's stored inputs. Needs no rights.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

mod exercise;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let inputs: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(inputs.len() >= 4, "the corpus is missing");
    for input in inputs {
        run(&fs::read(&input).unwrap());
    }
}

#[test]
fn stored_commands_find_nothing() {
    replay("control", exercise::control);
}

#[test]
fn stored_sequences_find_nothing() {
    replay("queues", exercise::queues);
}

#[test]
fn stored_streams_find_nothing() {
    replay("stream", exercise::stream);
}

#[test]
fn stored_frames_find_nothing() {
    replay("send", exercise::send);
}

#[test]
fn stored_answers_of_netlink_find_nothing() {
    replay("netlink", exercise::netlink);
}

#[test]
fn answers_of_a_kernel_are_understood() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/netlink");
    for table in ["links", "addresses", "routes", "neighbours", "bridge"] {
        let entries = strata_net::test_utils::read_netlink(&fs::read(corpus.join(table)).unwrap());
        assert!(entries >= 2, "{table}: {entries}");
    }
}
