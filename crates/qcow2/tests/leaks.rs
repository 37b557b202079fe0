//! What fails leaves nothing behind: clusters that a failed request took or was to free are free
//! once the disk is well again.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::is_sound;
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults};
use strata_qcow2::{CreateOptions, Error, Image, NewSnapshot, OpenOptions, Storage};

const K: u64 = 1024;

/// Requests that take clusters and give others up.
fn requests(image: &Image) -> Vec<Box<dyn Fn() -> Result<(), Error> + '_>> {
    let cluster = image.geometry().cluster_size() as usize;
    vec![
        Box::new(|| image.write_at(&[1; 9000], 100)),
        Box::new(move || image.write_compressed(&vec![2; cluster], 64 * K)),
        // Copied on write: the snapshot has these.
        Box::new(|| image.write_at(&[3; 7000], 20 * K)),
        Box::new(|| image.discard(30 * K, 20 * K)),
        Box::new(|| image.write_zeroes(50 * K, 5000, true)),
        Box::new(|| image.write_at(&[4; 3000], 64 * K + 5)),
        Box::new(|| image.flush()),
        Box::new(|| image.write_at(&[5; 12_000], 80 * K)),
        Box::new(|| image.flush()),
    ]
}

/// An image on a disk whose I/O fails when it is told to.
fn make(options: &CreateOptions) -> (Arc<Faults>, Image) {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    options.create(&memory).unwrap();
    let faults = Arc::new(Faults::default());
    let disk: Arc<dyn Storage> = Arc::new(FaultDisk::new(memory, &faults));
    let writable = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(Arc::clone(&disk), writable.clone()).unwrap();
    image.write_at(&[9; 60 * K as usize], 5 * K).unwrap();
    image.create_snapshot(&NewSnapshot::default()).unwrap();
    image.write_at(&[8; 10 * K as usize], 40 * K).unwrap();
    image.close().unwrap();
    (faults, Image::open(disk, writable).unwrap())
}

/// Lets one I/O fail; whether there was one to fail.
fn fail_one(options: &CreateOptions, fault: Fault, count: u64) -> bool {
    let (faults, image) = make(options);
    faults.arm(fault, count, false);
    let mut failures = Vec::new();
    for (number, request) in requests(&image).iter().enumerate() {
        if let Err(error) = request() {
            let what = format!("{fault:?} {count}, request {number}: {error}");
            request().unwrap_or_else(|again| panic!("{what}; again: {again}"));
            failures.push(what);
        }
    }
    let failed = faults.heal() > 0;
    image.flush().unwrap();
    println!("{failures:?}");
    is_sound(&image);
    failed
}

#[test]
fn failed_requests_leave_no_leak() {
    let base = CreateOptions {
        size: 128 * K,
        cluster_size: K,
        ..CreateOptions::default()
    };
    let shapes = [
        base.clone(),
        CreateOptions {
            version: 2,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 16 * K,
            extended_l2: true,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 64,
            ..base
        },
    ];
    for options in &shapes {
        for fault in [Fault::Io, Fault::NoSpace] {
            let mut count = 0;
            while fail_one(options, fault, count) {
                count += 1;
            }
            assert!(
                count >= 8,
                "{fault:?} {}: only {count}",
                options.cluster_size
            );
        }
    }
}
