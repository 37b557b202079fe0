//! Drivers that break the rules.
#![allow(clippy::unwrap_used)]

mod common;
mod sequence;

use std::path::Path;
use std::sync::Arc;

use strata_block::{BlockDevice, BlockOptions};
use strata_virtio::test_utils::hostile_suite;

#[test]
fn what_no_driver_may_do_breaks_the_device_and_no_more() {
    let outcomes = hostile_suite(|| {
        let disk = Arc::new(sequence::disk());
        Box::new(BlockDevice::new(disk, BlockOptions::default()).unwrap())
    });
    assert!(outcomes.len() > 30, "{}", outcomes.len());
    for outcome in outcomes {
        assert!(outcome.broken || !outcome.must_break, "{outcome:?}");
    }
}

/// Replays what the fuzz targets are started with and what they have found.
#[test]
fn stored_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let replay = |target: &str, run: &dyn Fn(&[u8])| {
        let mut count = 0;
        for file in std::fs::read_dir(root.join(target)).unwrap() {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "no corpus for {target}");
    };
    replay("request", &|data| {
        strata_block::test_utils::exercise(data);
    });
    replay("device", &sequence::run);
}
