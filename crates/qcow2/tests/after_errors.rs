//! What an operation that failed has left behind harms nothing that is done next, on the same
//! handle.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::reads_as;
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults};
use strata_qcow2::{
    CreateOptions, FindingKind, Image, Incompatible, NewSnapshot, OpenOptions, Repair, Result,
    Storage,
};

const CLUSTER: u64 = 1024;

fn open(file: Arc<dyn Storage>) -> Image {
    let options = OpenOptions {
        writable: true,
        ..Default::default()
    };
    Image::open(file, options).unwrap()
}

fn has_at_most_leaks(image: &Image, when: u64) {
    let mut told = Vec::new();
    image
        .check(Repair::Nothing, &mut |finding| told.push(finding.clone()))
        .unwrap();
    told.retain(|finding| finding.kind != FindingKind::Leak);
    assert!(told.is_empty(), "after failure {when}: {told:?}");
}

/// Lets I/O after I/O of an operation fail; what handle and disk go on as is for `after` to judge,
/// unless the handle says that it can not be used.
fn fail_everywhere(
    options: &CreateOptions,
    operation: impl Fn(&Image) -> Result<()>,
    after: impl Fn(&Image, &MemoryStorage, u64),
) {
    for count in 0.. {
        let disk = Arc::new(MemoryStorage::default());
        options.create(&(Arc::clone(&disk) as _)).unwrap();
        let faults = Arc::new(Faults::default());
        let image = open(Arc::new(FaultDisk::new(Arc::clone(&disk) as _, &faults)));
        image.write_at(&[1; 4 * CLUSTER as usize], 0).unwrap();
        image.flush().unwrap();
        faults.arm(Fault::Io, count, false);
        let done = operation(&image);
        if faults.heal() == 0 {
            assert!(count > 3, "hardly anything to fail");
            break;
        }
        if done.is_err() && image.write_at(&[], 0).is_ok() {
            after(&image, &disk, count);
        }
        image.abandon();
    }
}

/// Writes one byte to each of many new clusters, of which the rest must read as zeroes.
fn fill_in(image: &Image, when: u64) {
    let (from, to) = (image.size() / 2, image.size());
    for at in (from..to).step_by(CLUSTER as usize) {
        image.write_at(&[2], at).unwrap();
    }
    for at in (from..to).step_by(CLUSTER as usize) {
        reads_as(image, 2, at, 1);
        reads_as(image, 0, at + 1, CLUSTER - 1);
    }
    image.flush().unwrap();
    has_at_most_leaks(image, when);
}

/// Tables that were written past the end of the file and never named are not zeroes.
#[test]
fn tables_of_a_snapshot_that_failed_are_in_no_new_cluster() {
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        version: 2,
        ..Default::default()
    };
    let snapshot = |image: &Image| image.create_snapshot(&NewSnapshot::default()).map(drop);
    fail_everywhere(&options, snapshot, |image, _, count| fill_in(image, count));
}

#[test]
fn a_refcount_block_that_failed_is_in_no_new_cluster() {
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        refcount_bits: 64,
        ..Default::default()
    };
    let write = |image: &Image| image.write_at(&[3; 200 * CLUSTER as usize], 0);
    fail_everywhere(&options, write, |image, _, count| fill_in(image, count));
}

/// Refcounts may be behind only while the dirty bit says so.
#[test]
fn an_image_that_did_not_close_is_dirty_while_refcounts_are_behind() {
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        lazy_refcounts: true,
        ..Default::default()
    };
    fail_everywhere(&options, Image::close, |image, disk, count| {
        image
            .write_at(&[3; 64 * CLUSTER as usize], 512 << 10)
            .unwrap();
        image.flush().unwrap();
        let left = Arc::new(MemoryStorage::new(disk.to_vec()));
        let left = Image::open(left, OpenOptions::default()).unwrap();
        if !left.header().incompatible.has(Incompatible::DIRTY) {
            has_at_most_leaks(&left, count);
        }
    });
}

/// Metadata that was never named leaks; freed as such, it is as good as any other cluster.
#[test]
fn what_a_failed_bitmap_leaked_is_used_again_after_a_repair() {
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        ..Default::default()
    };
    let add = |image: &Image| image.add_bitmap("b", 512);
    fail_everywhere(&options, add, |image, _, count| {
        image.check(Repair::Leaks, &mut |_| {}).unwrap();
        fill_in(image, count);
    });
}

/// A bitmap on the disk that is not in use tells of all writes, also of those after a failure to
/// close.
#[test]
fn bitmaps_of_an_image_that_did_not_close_are_in_use() {
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        ..Default::default()
    };
    let close = |image: &Image| image.add_bitmap("b", 512).and_then(|()| image.close());
    fail_everywhere(&options, close, |image, disk, count| {
        image.write_at(&[3], 8 * CLUSTER).unwrap();
        image.flush().unwrap();
        let left = Arc::new(MemoryStorage::new(disk.to_vec()));
        let left = Image::open(left, OpenOptions::default()).unwrap();
        for bitmap in left.bitmaps().unwrap() {
            let marked = left.bitmap_next("b", 8 * CLUSTER);
            let told = marked.is_ok_and(|next| next == Some((8 * CLUSTER, 8 * CLUSTER + 512)));
            assert!(bitmap.inconsistent || told, "after failure {count}");
        }
    });
}

/// A handle that does not know what the disk has writes nothing, not even to look at it.
#[test]
fn a_check_by_a_broken_handle_writes_nothing() {
    let options = CreateOptions {
        size: 4 << 20,
        cluster_size: 512,
        refcount_bits: 64,
        ..Default::default()
    };
    let made = Arc::new(MemoryStorage::default());
    options.create(&(Arc::clone(&made) as _)).unwrap();
    let image = open(Arc::clone(&made) as _);
    image.write_at(&vec![1; 15 << 17], 0).unwrap();
    image.close().unwrap();
    let mut broken = 0;
    for count in 0.. {
        let disk = Arc::new(MemoryStorage::new(made.to_vec()));
        let faults = Arc::new(Faults::default());
        let image = open(Arc::new(FaultDisk::new(Arc::clone(&disk) as _, &faults)));
        image.write_at(&[1; 512], 15 << 17).unwrap();
        faults.arm(Fault::Io, count, false);
        // The refcount table grows for this.
        let _ = image.write_at(&[2; 256 << 10], 2 << 20);
        if faults.heal() == 0 {
            break;
        }
        if image.write_at(&[], 0).is_err() {
            broken += 1;
            let left = disk.to_vec();
            let _ = image.check(Repair::Nothing, &mut |_| {});
            assert!(disk.to_vec() == left, "written after failure {count}");
        }
    }
    assert!(broken > 0);
}
