//! Images that are out to harm: every field takes every awkward value, and no image makes the
//! crate panic, run long, or allocate what it merely claims.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;
mod hostile_body;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Random;
use hostile_body::{Part, exercise, fields, look, patched, replaced, seeds, with};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{CreateOptions, Image, NewSnapshot, OpenOptions, Repair, Storage};

/// The largest structures of the format, an L1 table of 32 MiB and a refcount table of 8 MiB,
/// with their copies while they are moved. Nothing else may come near.
const MOST: usize = 100 << 20;
/// What reading any image may take: tables are loaded as they are used.
const MOST_TO_READ: usize = 48 << 20;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that each thread holds.
struct Counting;

// SAFETY: every call is passed on to `System` as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How long this thread has run; what a clock says depends on what else the machine does.
fn on_cpu() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

/// Fails if `work` holds more than `most` bytes at once or takes long.
fn bounded(what: &str, most: usize, work: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    let before = LIVE.get();
    PEAK.set(before);
    let start = on_cpu();
    let ended = std::panic::catch_unwind(work).is_ok();
    let peak = PEAK.get() - before;
    let took = on_cpu() - start;
    let quick = took < Duration::from_secs(20);
    if !ended || peak > most || !quick {
        eprintln!("{what}: ended {ended}, {peak} bytes, {took:?}");
    }
    ended && peak <= most && quick
}

fn awkward_values(width: usize, old: u64, cluster: u64) -> Vec<u64> {
    let largest = u64::MAX >> (64 - width * 8);
    let mut list = vec![
        0,
        1,
        2,
        3,
        largest,
        largest - 1,
        largest / 2,
        largest / 2 + 1,
    ];
    list.extend((0..width * 8).map(|bit| 1 << bit));
    list.extend((0..width * 8).map(|bit| old ^ (1 << bit)));
    list.extend([
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_add(cluster),
    ]);
    list.extend([cluster, cluster * 2, cluster * 3, cluster * 4, cluster + 1]);
    list.extend((0..8).map(|number| (1 << 63) | (number * cluster)));
    list.extend([
        1 << 62 | cluster,
        3 << 62,
        1 << 62 | 0x3fff_ffff_ffff_ffff,
        old | 1 << 62,
    ]);
    list.retain(|value| *value <= largest && *value != old);
    list.sort_unstable();
    list.dedup();
    list
}

fn value_at(bytes: &[u8], (at, width): (usize, usize)) -> u64 {
    bytes[at..at + width]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn long() -> bool {
    std::env::var_os("STRATA_TEST_LONG").is_some()
}

#[test]
fn every_field_takes_every_awkward_value() {
    let mut random = Random(1);
    let (mut done, mut failed) = (0, 0);
    for (number, seed) in seeds().into_iter().enumerate() {
        let cluster = 1 << value_at(&seed, (20, 4));
        for field in fields(&seed) {
            for value in awkward_values(field.1, value_at(&seed, field), cluster) {
                if !long() && random.below(12) != 0 {
                    continue;
                }
                let image = with(&seed, field, value);
                let what = format!(
                    "seed {number}, {} bytes at {:#x} = {value:#x}",
                    field.1, field.0
                );
                failed += u32::from(!bounded(&what, MOST, || exercise(&image)));
                done += 1;
            }
        }
    }
    println!("{done} images");
    assert_eq!(failed, 0, "of {done} images");
}

#[test]
fn headers_are_not_believed_when_they_claim_sizes() {
    let seed = seeds().swap_remove(0);
    let mut failed = 0;
    for field in fields(&seed).into_iter().filter(|(at, _)| *at < 112) {
        for value in awkward_values(field.1, value_at(&seed, field), 1024) {
            let image = with(&seed, field, value);
            let what = format!("{} bytes at {:#x} = {value:#x}", field.1, field.0);
            failed += u32::from(!bounded(&what, MOST_TO_READ, || look(&image)));
        }
    }
    assert_eq!(failed, 0);
}

#[test]
fn many_wrong_fields_at_once() {
    let mut random = Random(77);
    let mut failed = 0;
    for number in 0..if long() { 20_000 } else { 250 } {
        let mut data = vec![number as u8];
        for _ in 0..1 + random.below(6) {
            data.extend((random.next() as u16).to_be_bytes());
            let value = match random.below(3) {
                0 => random.below(64) * 512,
                1 => (1 << random.below(64)) | (random.below(40) * 512),
                _ => random.next() << 16 | random.next(),
            };
            data.extend(value.to_be_bytes());
        }
        let image = patched(&data).unwrap();
        failed += u32::from(!bounded(&format!("{data:?}"), MOST, || exercise(&image)));
    }
    assert_eq!(failed, 0);
}

/// Bytes of an image of `size` bytes with a bitmap, and where its directory is.
fn with_bitmap(size: u64, granularity: u64) -> (Vec<u8>, usize) {
    let memory = Arc::new(MemoryStorage::default());
    let storage: Arc<dyn Storage> = Arc::clone(&memory) as _;
    let create = CreateOptions {
        size,
        ..Default::default()
    };
    create.create(&storage).unwrap();
    let image = Image::open(storage, writable()).unwrap();
    image.add_bitmap("bits", granularity).unwrap();
    image.close().unwrap();
    let header = image.header();
    let found = header.extensions.iter().find(|e| e.kind == 0x2385_2875);
    let directory = value_at(&found.unwrap().data, (16, 8)) as usize;
    (memory.to_vec(), directory)
}

fn writable() -> OpenOptions {
    OpenOptions {
        writable: true,
        ..Default::default()
    }
}

/// Does with an image what concerns its bitmaps and sizes, in little memory.
fn is_bounded(what: &str, bytes: Vec<u8>) {
    let open = std::panic::AssertUnwindSafe(move || {
        let storage = Arc::new(MemoryStorage::new(bytes));
        if let Ok(image) = Image::open(storage, writable()) {
            let _ = image.bitmaps();
            let _ = image.apply_snapshot("snapshot");
            let _ = image.write_at(&[1; 512], 0);
            let _ = image.check(Repair::Nothing, &mut |_| {});
            let _ = image.close();
        }
    });
    assert!(bounded(what, MOST, open));
}

/// Bitmaps of a 2 TiB disk claim half a GiB, or half of that, in a table of one cluster.
#[test]
fn bitmaps_are_not_believed_when_they_claim_sizes() {
    for (shift, entries) in [(9, 8192), (10, 4096)] {
        let (bytes, directory) = with_bitmap(2 << 40, 1 << 20);
        let table = value_at(&bytes, (directory, 8)) as usize;
        let mut bytes = with(&bytes, (directory + 17, 1), shift);
        bytes = with(&bytes, (directory + 8, 4), entries);
        is_bounded("a large bitmap", bytes.clone());
        let end = bytes.len() as u64;
        bytes.resize(bytes.len() + (64 << 10), 0x55);
        for (what, word) in [("ones", 1), ("one cluster again and again", end)] {
            for entry in 0..entries as usize {
                bytes[table + entry * 8..][..8].copy_from_slice(&word.to_be_bytes());
            }
            is_bounded(&format!("a large bitmap of {what}"), bytes.clone());
        }
    }
}

/// The tables of 1800 bitmaps, of 8192 entries each, lie at one place.
#[test]
fn tables_of_bitmaps_are_not_read_again_and_again() {
    let (mut bytes, directory) = with_bitmap(2 << 40, 1 << 20);
    let table = value_at(&bytes, (directory, 8)) as usize;
    bytes[directory + 8..directory + 12].copy_from_slice(&8192u32.to_be_bytes());
    bytes[directory + 17] = 9;
    let entry = bytes[directory..directory + 32].to_vec();
    let count = 1800;
    for number in 0..count {
        let at = directory + number * 32;
        let mut entry = entry.clone();
        entry[24..28].copy_from_slice(format!("{number:04}").as_bytes());
        bytes.resize(bytes.len().max(at + 32), 0);
        bytes[at..at + 32].copy_from_slice(&entry);
    }
    let data = bytes.len().next_multiple_of(64 << 10) as u64;
    for entry in 0..8192 {
        bytes[table + entry * 8..][..8].copy_from_slice(&data.to_be_bytes());
    }
    let extension = 0x2385_2875u32.to_be_bytes();
    let at = bytes.windows(4).position(|w| w == extension).unwrap() + 8;
    bytes[at..at + 4].copy_from_slice(&(count as u32).to_be_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&(count as u64 * 32).to_be_bytes());
    is_bounded("many bitmaps", bytes);
}

/// A snapshot claims that its disk has so many bytes.
#[test]
fn snapshots_are_not_believed_when_they_claim_sizes() {
    for size in [1 << 56, 1 << 62, 1 << 63, u64::MAX] {
        let memory = Arc::new(MemoryStorage::default());
        let storage: Arc<dyn Storage> = Arc::clone(&memory) as _;
        let create = CreateOptions {
            size: 1 << 20,
            ..Default::default()
        };
        create.create(&storage).unwrap();
        let image = Image::open(storage, writable()).unwrap();
        let new = NewSnapshot {
            name: "snapshot".into(),
            ..Default::default()
        };
        image.create_snapshot(&new).unwrap();
        image.close().unwrap();
        let table = image.header().snapshots_offset as usize;
        is_bounded(
            &format!("a snapshot of {size} bytes"),
            with(&memory.to_vec(), (table + 48, 8), size),
        );
    }
}

/// Replays what the fuzz targets are started with and what they have found.
#[test]
fn stored_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let parts = [
        ("header", Part::Header),
        ("extensions", Part::Extensions),
        ("snapshots", Part::Snapshots),
        ("bitmaps", Part::Bitmaps),
        ("compressed", Part::Compressed),
    ];
    let mut failed = 0;
    let mut replay = |target: &str, image: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        let files = std::fs::read_dir(root.join(target)).unwrap();
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let image = image(&data).unwrap_or_default();
            let what = path.display().to_string();
            failed += u32::from(!bounded(&what, MOST, || exercise(&image)));
            count += 1;
        }
        assert!(count > 0, "no corpus for {target}");
    };
    for (target, part) in parts {
        replay(target, &|data| Some(replaced(part, data)));
    }
    replay("tables", &patched);
    replay("image", &|data| Some(data.to_vec()));
    assert_eq!(failed, 0);
}
