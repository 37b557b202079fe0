//! Dirty bitmaps lose no mark, whatever happens beside the writes that they are to tell of.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::stopping::Stopping;
use common::{Random, is_sound, rounds};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults};
use strata_qcow2::{
    AmendOptions, CreateOptions, Error, Image, OpenOptions, Preallocation, Repair, Storage,
};

const SIZE: u64 = 1 << 20;

const SECTOR: u64 = 512;

fn open(file: Arc<dyn Storage>) -> Image {
    let options = OpenOptions {
        writable: true,
        ..Default::default()
    };
    Image::open(file, options).unwrap()
}

/// An image full of data, with a bitmap.
fn made() -> Arc<MemoryStorage> {
    let made = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 4096,
        ..Default::default()
    };
    options.create(&(Arc::clone(&made) as _)).unwrap();
    let image = open(Arc::clone(&made) as _);
    image.write_at(&vec![1; SIZE as usize], 0).unwrap();
    image.add_bitmap("b", SECTOR).unwrap();
    image.close().unwrap();
    made
}

fn is_marked(image: &Image, at: u64) -> bool {
    let next = image.bitmap_next("b", at).unwrap();
    next.is_some_and(|(start, _)| start <= at)
}

#[test]
fn what_is_written_while_the_disk_changes_its_size_is_marked() {
    for round in 0..rounds() / 20 {
        let image = open(made());
        let stop = AtomicBool::new(false);
        let (image, stop) = (&image, &stop);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut random = Random(round);
                while !stop.load(Ordering::Relaxed) {
                    let size = SIZE + random.below(100) * SECTOR;
                    image.resize(size, Preallocation::Off).unwrap();
                }
            });
            let writer = scope.spawn(move || {
                // Every second one, so that the marks are many.
                for at in (0..SIZE).step_by(2 * SECTOR as usize) {
                    image.write_at(&[2; SECTOR as usize], at).unwrap();
                }
            });
            let written = writer.join();
            stop.store(true, Ordering::Relaxed);
            written.unwrap();
        });
        let lost = (0..SIZE)
            .step_by(2 * SECTOR as usize)
            .find(|at| !is_marked(image, *at));
        assert_eq!(lost, None, "round {round}");
    }
}

/// A bitmap that could not be stored is as it was.
#[test]
fn a_change_that_fails_leaves_all_marks() {
    for clear in [true, false] {
        for count in 0.. {
            let faults = Arc::new(Faults::default());
            let image = open(Arc::new(FaultDisk::new(made(), &faults)));
            image.write_at(&[2; SECTOR as usize], 0).unwrap();
            faults.arm(Fault::Io, count, false);
            let changed = match clear {
                true => image.clear_bitmap("b"),
                false => image.enable_bitmap("b", false),
            };
            if faults.heal() == 0 {
                break;
            }
            if changed.is_ok() || image.write_at(&[], 0).is_err() {
                continue;
            }
            image.write_at(&[2; SECTOR as usize], 4 * SECTOR).unwrap();
            // Another change of the list.
            image.add_bitmap("other", SECTOR).unwrap();
            image.write_at(&[2; SECTOR as usize], 8 * SECTOR).unwrap();
            for at in [0, 4 * SECTOR, 8 * SECTOR] {
                assert!(is_marked(&image, at), "{at} after failure {count}");
            }
        }
    }
}

/// A write beside the closing of its image is marked, or fails.
#[test]
fn what_is_written_while_the_image_closes_is_marked_or_refused() {
    for part in 0..20 {
        let stopping = Arc::new(Stopping::new(made().to_vec()));
        let image = Arc::new(open(Arc::clone(&stopping) as _));
        image.write_at(&[2; SECTOR as usize], 0).unwrap();
        stopping.stop_after(part);
        let closer = {
            let image = Arc::clone(&image);
            thread::spawn(move || image.close().unwrap())
        };
        while !closer.is_finished() && stopping.left().is_some() {
            thread::yield_now();
        }
        let stopped = stopping.left().is_none();
        let writer = {
            let image = Arc::clone(&image);
            thread::spawn(move || image.write_at(&[3; SECTOR as usize], SIZE - SECTOR))
        };
        thread::sleep(std::time::Duration::from_millis(20));
        stopping.stop_after(u32::MAX);
        stopping.let_go();
        closer.join().unwrap();
        let written = writer.join().unwrap();
        assert!(
            matches!(written, Ok(()) | Err(Error::Broken)),
            "{written:?}"
        );
        drop(image);
        let image = open(stopping as _);
        if written.is_ok() {
            assert!(is_marked(&image, SIZE - SECTOR), "part {part}");
        }
        if !stopped {
            return;
        }
    }
    panic!("no end of flushes");
}

/// Whatever an image went through since: a bitmap that it was writing into is stored.
#[test]
fn an_image_that_closes_unprepared_stores_its_bitmaps() {
    for rebuild in [false, true] {
        let made = made();
        let image = open(Arc::clone(&made) as _);
        image.write_at(&[2; SECTOR as usize], 0).unwrap();
        if rebuild {
            // The header's refcount is 0, so that all of them are made anew.
            let entry = image.header().refcount_table_offset;
            let mut block = [0; 8];
            let file: &dyn Storage = &*made;
            file.read_at(&mut block, entry).unwrap();
            file.write_at(&[0, 0], u64::from_be_bytes(block)).unwrap();
            image.check(Repair::All, &mut |_| {}).unwrap();
        } else {
            let lazy_refcounts = Some(true);
            image
                .amend(&AmendOptions {
                    lazy_refcounts,
                    ..Default::default()
                })
                .unwrap();
        }
        image.close().unwrap();
        let image = open(made);
        assert!(is_marked(&image, 0));
        is_sound(&image);
    }
}
