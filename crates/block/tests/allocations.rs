//! Between a kick and its completion nothing is allocated.
#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use common::create;
use common::guest::{Guest, IN, OK, OUT, header};
use strata_block::{BlockOptions, Disk, DiskOptions, Format};

/// Allocations of threads that are not excused.
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static EXCUSED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: It passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !EXCUSED.try_with(Cell::get).unwrap_or(true) {
            COUNT.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads and writes of one buffer and of several, at depth 16.
fn work(guest: &mut Guest) {
    for round in 0..16_u8 {
        for number in 0..8 {
            let sector = number * 100;
            let (one, two) = ([round; 1024], [round; 512]);
            guest
                .driver
                .add(0, &[&header(OUT, sector), &one, &two], &[1]);
            guest
                .driver
                .add(0, &[&header(IN, sector)], &[512, 512, 1024, 1]);
        }
        guest.driver.kick(0);
        for _ in 0..16 {
            assert_eq!(guest.driver.wait_used(0).written.last(), Some(&OK));
        }
    }
}

#[test]
fn the_way_from_kick_to_completion_allocates_nothing() {
    EXCUSED.set(true);
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::File::create(&raw)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    create(&image, 1 << 20);
    for (path, format) in [(raw, Format::Raw), (image, Format::Qcow2)] {
        let disk = Disk::open(&DiskOptions::new(path, format)).unwrap();
        let mut guest = Guest::new(disk, BlockOptions::default());
        let start = COUNT.load(Ordering::SeqCst);
        // Which request meets which storage depends on the timing, so when all of it has grown does
        // too. An allocation for each request would never leave a turn without any.
        let (mut turns, mut quiet) = (0, 0);
        while quiet < 5 {
            let before = COUNT.load(Ordering::SeqCst);
            work(&mut guest);
            quiet = if COUNT.load(Ordering::SeqCst) == before {
                quiet + 1
            } else {
                0
            };
            turns += 1;
            assert!(turns < 100, "{format:?} allocates");
        }
        assert!(COUNT.load(Ordering::SeqCst) > start, "nothing is counted");
    }
}
