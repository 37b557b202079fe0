//! Engines that do the I/O on extents themselves: what they hold is not given to another use.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{is_sound, made};
use strata_qcow2::{CreateOptions, Extent, NewSnapshot};

/// An engine that found an extent may still be reading it when its cluster is given up.
#[test]
fn a_freed_cluster_waits_for_who_reads_it() {
    let (_dir, _path, image) = made(&CreateOptions {
        size: 1 << 20,
        cluster_size: 4096,
        ..Default::default()
    });
    image.write_at(&[7; 4096], 0).unwrap();
    image.flush().unwrap();
    let ticket = image.enter();
    let Extent::Data { offset } = image.extent(0, 4096).unwrap().0 else {
        panic!("no data");
    };
    let reuse = || {
        for round in 0..6 {
            image.write_at(&[9; 4096], 8192 + round * 4096).unwrap();
            image.flush().unwrap();
        }
    };
    let mut seen = [0; 4096];
    image.discard(0, 4096).unwrap();
    reuse();
    image.data_storage().read_at(&mut seen, offset).unwrap();
    assert!(seen == [7; 4096], "another use while it was read");
    image.leave(ticket);
    image.discard(8192, 6 * 4096).unwrap();
    image.flush().unwrap();
    reuse();
    image.data_storage().read_at(&mut seen, offset).unwrap();
    assert!(seen == [9; 4096], "never used again");
    is_sound(&image);
}

/// A write in place that has begun belongs to the snapshot, which waits for it.
#[test]
fn a_snapshot_waits_for_writes_in_place() {
    let (_dir, _path, image) = made(&CreateOptions {
        size: 1 << 20,
        cluster_size: 4096,
        ..Default::default()
    });
    image.write_at(&[7; 4096], 0).unwrap();
    let ticket = image.enter();
    let (host, _) = image.overwrite(0, 4096).unwrap().unwrap();
    let taken = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let new = NewSnapshot {
                name: "s".into(),
                ..Default::default()
            };
            image.create_snapshot(&new).unwrap();
            taken.store(true, Ordering::SeqCst);
        });
        thread::sleep(std::time::Duration::from_millis(100));
        assert!(
            !taken.load(Ordering::SeqCst),
            "taken in the middle of a write"
        );
        image.data_storage().write_at(&[9; 4096], host).unwrap();
        image.leave(ticket);
    });
    assert!(
        image.overwrite(0, 4096).unwrap().is_none(),
        "shared clusters are copied first"
    );
    is_sound(&image);
}

#[test]
fn a_ticket_keeps_a_freed_cluster_from_another_use() {
    let (_dir, _path, image) = made(&CreateOptions {
        size: 8 << 20,
        ..Default::default()
    });
    image.write_at(&[1; 65536], 0).unwrap();
    let ticket = image.enter();
    let (old, _) = image.overwrite(0, 4096).unwrap().unwrap();
    image.discard(0, 65536).unwrap();
    image.flush().unwrap();
    for cluster in 1..20 {
        image.write_at(&[2; 65536], cluster << 16).unwrap();
        let (new, _) = image.overwrite(cluster << 16, 4096).unwrap().unwrap();
        assert_ne!(old, new);
    }
    image.leave(ticket);
    image.flush().unwrap();
    image.write_at(&[3; 65536], 30 << 16).unwrap();
    assert_eq!(image.overwrite(30 << 16, 4096).unwrap().unwrap().0, old);
}
