//! Dirty tracking through guest memory, also while other threads write.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use strata_memory::test_utils::{ram, ram_with_gap};
use strata_memory::{DirtyLog, Error, GuestRam, PAGE_SIZE};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress};

const HIGH: u64 = 1 << 32;

fn pages(log: &DirtyLog) -> BTreeSet<u64> {
    log.ranges()
        .flat_map(|r| (r.guest_base.0..r.guest_base.0 + r.len).step_by(PAGE_SIZE as usize))
        .collect()
}

#[test]
fn tracking_has_one_user_at_a_time() {
    let ram = ram(1 << 20).unwrap();
    assert!(matches!(ram.take_dirty(), Err(Error::TrackingOff)));
    ram.start_dirty().unwrap();
    assert!(matches!(ram.start_dirty(), Err(Error::TrackingOn)));
    let log = ram.take_dirty().unwrap();
    ram.stop_dirty();
    assert!(matches!(ram.put_back_dirty(&log), Err(Error::TrackingOff)));
    ram.start_dirty().unwrap();
}

#[test]
fn a_log_that_was_not_used_comes_again() {
    let (ram, other) = (
        ram_with_gap(1 << 20, 1 << 20, HIGH).unwrap(),
        ram(1 << 20).unwrap(),
    );
    ram.start_dirty().unwrap();
    ram.memory().write_obj(1_u8, GuestAddress(HIGH)).unwrap();
    let log = ram.take_dirty().unwrap();
    assert!(ram.take_dirty().unwrap().is_empty());
    ram.memory().write_obj(1_u8, GuestAddress(0)).unwrap();
    ram.put_back_dirty(&log).unwrap();
    assert_eq!(pages(&ram.take_dirty().unwrap()), BTreeSet::from([0, HIGH]));

    other.start_dirty().unwrap();
    assert!(matches!(
        other.put_back_dirty(&log),
        Err(Error::LogShape { slot: 1, .. })
    ));
    assert!(other.take_dirty().unwrap().is_empty());
}

#[test]
fn discarded_pages_count_as_written() {
    let ram = ram(1 << 20).unwrap();
    ram.start_dirty().unwrap();
    ram.discard(GuestAddress(0x800), 3 * 4096).unwrap();
    assert_eq!(
        pages(&ram.take_dirty().unwrap()),
        BTreeSet::from([0x1000, 0x2000])
    );
}

#[test]
fn who_writes_by_host_address_marks_by_region() {
    let ram = ram_with_gap(1 << 20, 1 << 20, HIGH).unwrap();
    ram.start_dirty().unwrap();
    ram.regions()
        .nth(1)
        .unwrap()
        .dirty_bitmap()
        .mark_dirty(0xfff, 2);
    assert_eq!(
        pages(&ram.take_dirty().unwrap()),
        BTreeSet::from([HIGH, HIGH + 0x1000])
    );
}

#[derive(Debug, Clone)]
enum Op {
    Write { page: u64, offset: u64, len: usize },
    Discard { page: u64, count: u64 },
    Take,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..200_u64, 0..4096_u64, 0..20_000_usize)
            .prop_map(|(page, offset, len)| Op::Write { page, offset, len }),
        1 => (0..200_u64, 0..8_u64).prop_map(|(page, count)| Op::Discard { page, count }),
        2 => Just(Op::Take),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #[test]
    fn the_log_is_what_a_comparison_of_contents_would_say(ops in ops()) {
        const LOW: u64 = 130 * PAGE_SIZE;
        let ram = ram_with_gap(LOW, 70 * PAGE_SIZE, HIGH).unwrap();
        let place = |page: u64| {
            let offset = page * PAGE_SIZE;
            if offset < LOW { offset } else { HIGH + offset - LOW }
        };
        ram.start_dirty().unwrap();
        let mut expected = BTreeSet::new();
        for op in ops {
            match op {
                Op::Write { page, offset, len } => {
                    let start = place(page) + offset;
                    // A write past the end of a region writes what is inside.
                    let done = ram.memory().write(&vec![1; len], GuestAddress(start)).unwrap_or(0);
                    let end = start + done as u64;
                    let touched = (start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).filter(|_| done > 0);
                    expected.extend(touched.map(|page| page * PAGE_SIZE));
                }
                Op::Discard { page, count } => {
                    if ram.discard(GuestAddress(place(page)), count * PAGE_SIZE).is_ok() {
                        expected.extend((0..count).map(|i| place(page) + i * PAGE_SIZE));
                    }
                }
                Op::Take => {
                    prop_assert_eq!(pages(&ram.take_dirty().unwrap()), std::mem::take(&mut expected));
                }
            }
        }
        prop_assert_eq!(pages(&ram.take_dirty().unwrap()), expected);
    }
}

/// Copies what `log` says from `ram` into `copy`, as a live save does.
fn copy_dirty(ram: &GuestRam, log: &DirtyLog, copy: &mut [u8]) {
    for range in log.ranges() {
        let at = range.guest_base.0 as usize;
        let target = &mut copy[at..at + range.len as usize];
        assert!(ram.memory().read_slice(target, range.guest_base).is_ok());
    }
}

#[test]
fn a_live_copy_loses_no_write_of_a_running_thread() {
    const PAGES: u64 = 67;
    const ROUNDS: u64 = 400;
    let ram = ram(PAGES * PAGE_SIZE).unwrap();
    let written = AtomicU64::new(0);
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let mut copy = vec![0; (PAGES * PAGE_SIZE) as usize];
        thread::scope(|scope| {
            for writer in 0..2 {
                let (ram, stop, written) = (&ram, &stop, &written);
                scope.spawn(move || {
                    // Each writer has pages of its own and shares the bitmap's words.
                    let own: Vec<u64> = (0..PAGES).filter(|page| page % 2 == writer).collect();
                    let mut value = round << 32;
                    while !stop.load(Ordering::Relaxed) {
                        value += 1;
                        let addr = own[value as usize % own.len()] * PAGE_SIZE;
                        ram.memory().write_obj(value, GuestAddress(addr)).unwrap();
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            ram.start_dirty().unwrap();
            ram.memory().read_slice(&mut copy, GuestAddress(0)).unwrap();
            for _ in 0..round % 8 {
                copy_dirty(&ram, &ram.take_dirty().unwrap(), &mut copy);
            }
            stop.store(true, Ordering::Relaxed);
        });
        copy_dirty(&ram, &ram.take_dirty().unwrap(), &mut copy);
        ram.stop_dirty();
        let mut now = vec![0; copy.len()];
        ram.memory().read_slice(&mut now, GuestAddress(0)).unwrap();
        assert!(copy == now, "a write was lost in round {round}");
    }
    assert!(written.load(Ordering::Relaxed) > ROUNDS);
}

#[test]
fn every_mark_is_taken_exactly_once_among_takers() {
    const PAGES: u64 = 256;
    let ram = ram(PAGES * PAGE_SIZE).unwrap();
    ram.start_dirty().unwrap();
    let running = AtomicU64::new(2);
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for half in 0..2 {
            let (ram, running) = (&ram, &running);
            scope.spawn(move || {
                for page in (0..PAGES).filter(|page| page % 2 == half) {
                    ram.memory()
                        .write_obj(1_u8, GuestAddress(page * PAGE_SIZE))
                        .unwrap();
                    if page % 16 == half {
                        thread::yield_now();
                    }
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while running.load(Ordering::Acquire) > 0 {
                    taken.fetch_add(ram.take_dirty().unwrap().pages(), Ordering::Relaxed);
                    thread::yield_now();
                }
            });
        }
    });
    taken.fetch_add(ram.take_dirty().unwrap().pages(), Ordering::Relaxed);
    assert_eq!(taken.load(Ordering::Relaxed), PAGES);
}
