//! Threads whose sectors alternate within clusters, on new images of every kind: what one does to
//! its own leaves those of the others alone, whatever else happens to the image.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Random, file, is_sound, rounds, shapes};
use strata_qcow2::storage::{FileOptions, FileStorage, MemoryStorage};
use strata_qcow2::{
    AmendOptions, Backing, CreateOptions, Image, NewSnapshot, Node, OpenOptions, Preallocation,
    RawDisk, Repair, Storage,
};

const THREADS: u64 = 4;
const SECTOR: u64 = 512;
/// What the threads share ends within a cluster.
const SHARED: u64 = (160 << 10) + SECTOR;

/// An image under test.
struct Kind {
    options: CreateOptions,
    /// It stands on a disk full of this.
    below: Option<u8>,
    /// Its data is in a file of its own, which reads as a raw image or does not.
    data_file: Option<bool>,
}

fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for options in shapes(SHARED) {
        for below in [None, Some(0xbb)] {
            let options = options.clone();
            kinds.push(Kind {
                options,
                below,
                data_file: None,
            });
        }
    }
    for extended_l2 in [false, true] {
        for raw in [false, true] {
            let options = CreateOptions {
                size: SHARED,
                extended_l2,
                ..Default::default()
            };
            kinds.push(Kind {
                options,
                below: None,
                data_file: Some(raw),
            });
        }
    }
    // Subclusters of more than a sector.
    for below in [None, Some(0xbb)] {
        kinds.push(Kind {
            options: CreateOptions {
                size: SHARED,
                extended_l2: true,
                ..Default::default()
            },
            below,
            data_file: None,
        });
    }
    kinds.push(Kind {
        options: CreateOptions {
            size: SHARED,
            version: 2,
            cluster_size: 8192,
            ..Default::default()
        },
        below: Some(0xbb),
        data_file: None,
    });
    kinds
}

/// A new image of a kind, in memory, and its data file.
fn new_image(kind: &Kind) -> (Image, Option<Arc<dyn Storage>>) {
    let [file, data] = [(); 2].map(|()| -> Arc<dyn Storage> { Arc::<MemoryStorage>::default() });
    let data = kind.data_file.map(|_| data);
    CreateOptions {
        data_file: data.clone().map(|data| ("data".into(), data)),
        data_file_raw: kind.data_file == Some(true),
        ..kind.options.clone()
    }
    .create(&file)
    .unwrap();
    let backing = kind.below.map(|byte| {
        let below: Arc<dyn Storage> = Arc::<MemoryStorage>::default();
        below.write_at(&[byte; SHARED as usize], 0).unwrap();
        Backing::Node(Arc::new(Node::Raw(RawDisk::new(below).unwrap())))
    });
    let options = OpenOptions {
        writable: true,
        backing: backing.unwrap_or(Backing::Closed),
        data_file: data.clone(),
        ..Default::default()
    };
    (Image::open(file, options).unwrap(), data)
}

/// Random operations on the runs of `width` sectors that are one thread's, in `model`, which is as
/// long as the disk.
fn work(image: &Image, number: u64, width: u64, seed: u64, model: &mut [u8]) {
    let mut random = Random(seed * THREADS + number);
    let run = width * SECTOR;
    for _ in 0..80 {
        let start = (random.below(SHARED / run / THREADS + 1) * THREADS + number) * run;
        let from = start + random.below(run);
        let length = (1 + random.below(run)).min(start + run - from);
        if from + length > SHARED {
            continue;
        }
        let range = from as usize..(from + length) as usize;
        match random.below(10) {
            0..=3 => {
                let data = random.bytes(length as usize);
                image.write_at(&data, from).unwrap();
                model[range].copy_from_slice(&data);
            }
            4..=6 => {
                let unmap = random.below(2) == 0;
                image.write_zeroes(from, length, unmap).unwrap();
                model[range].fill(0);
            }
            _ => {
                let mut seen = vec![0xee; length as usize];
                image.read_at(&mut seen, from).unwrap();
                assert!(seen == model[range], "{from:#x} and {length:#x} bytes on");
            }
        }
    }
}

/// What happens besides, until told to stop. The disk is never shorter than what is shared.
fn disturb(image: &Image, kind: &Kind, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed);
    let old = kind.options.version < 3;
    while !stop.load(Ordering::Relaxed) {
        match random.below(8) {
            0 => image.flush().unwrap(),
            1 if kind.data_file.is_none() => {
                let id = image.create_snapshot(&NewSnapshot::default()).unwrap();
                thread::yield_now();
                image.delete_snapshot(&id).unwrap();
            }
            2 if !old => {
                image.add_bitmap("b", 4096).unwrap();
                thread::yield_now();
                image.remove_bitmap("b").unwrap();
            }
            3 => {
                let report = image.check(Repair::All, &mut |_| {}).unwrap();
                let repaired = report.leaks_fixed + report.corruptions_fixed;
                assert!(report.is_clean() && repaired == 0, "{report:?}");
            }
            4 if !old => {
                let options = AmendOptions {
                    lazy_refcounts: Some(random.below(2) == 0),
                    ..Default::default()
                };
                image.amend(&options).unwrap();
            }
            5 if kind.data_file.is_none() => {
                image
                    .write_vm_state(&[9; 3000], random.below(3000))
                    .unwrap();
                let new = NewSnapshot {
                    vm_state_size: 6000,
                    ..Default::default()
                };
                let id = image.create_snapshot(&new).unwrap();
                image.delete_snapshot(&id).unwrap();
            }
            6 => image.set_backing(image.backing()),
            _ => {
                let size = SHARED + random.below(200) * SECTOR;
                image.resize(size, Preallocation::Off).unwrap();
                if size > SHARED {
                    image.write_at(&[9; SECTOR as usize], SHARED).unwrap();
                    let mut seen = [0; SECTOR as usize];
                    image.read_at(&mut seen, SHARED).unwrap();
                    assert_eq!(seen, [9; SECTOR as usize]);
                }
            }
        }
    }
}

#[test]
fn what_others_do_leaves_a_threads_sectors_alone() {
    for (number, kind) in kinds().iter().enumerate() {
        for round in 0..rounds() / 20 {
            let (image, data) = new_image(kind);
            let width = [1, 3, 16][round as usize % 3];
            let first = vec![kind.below.unwrap_or(0); SHARED as usize];
            let stop = AtomicBool::new(false);
            let models: Vec<Vec<u8>> = thread::scope(|scope| {
                let (image, stop) = (&image, &stop);
                scope.spawn(move || disturb(image, kind, round, stop));
                let workers: Vec<_> = (0..THREADS)
                    .map(|thread| {
                        let mut model = first.clone();
                        scope.spawn(move || {
                            work(image, thread, width, round, &mut model);
                            model
                        })
                    })
                    .collect();
                let models: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
                stop.store(true, Ordering::Relaxed);
                models.into_iter().map(|model| model.unwrap()).collect()
            });
            let mut all = vec![0; SHARED as usize];
            image.read_at(&mut all, 0).unwrap();
            let owner = |at: usize| (at as u64 / SECTOR / width % THREADS) as usize;
            let wrong = (0..all.len()).find(|&at| all[at] != models[owner(at)][at]);
            assert_eq!(wrong, None, "kind {number}, round {round}");
            is_sound(&image);
            if let (Some(true), Some(data)) = (kind.data_file, data) {
                let mut raw = vec![0; SHARED as usize];
                image.flush().unwrap();
                data.read_at(&mut raw, 0).unwrap();
                assert!(raw == all, "kind {number}, round {round}: the raw file");
            }
        }
    }
}

/// A file that is shorter than its disk gets longer by zeroes, and by nothing else meanwhile less.
#[test]
fn zeroes_past_the_end_of_a_file_cut_nothing_off() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir.path().join("raw"), true);
    for _ in 0..rounds() * 10 {
        file.set_len(0).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| file.write_zeroes(0, SECTOR, true).unwrap());
            scope.spawn(|| file.write_at(&[7; SECTOR as usize], 4096).unwrap());
        });
        let mut seen = [0; SECTOR as usize];
        file.read_at(&mut seen, 4096).unwrap();
        assert_eq!(seen, [7; SECTOR as usize]);
    }
}

/// A write that O_DIRECT would refuse rewrites what lies beside it, but not what others do there.
#[test]
fn zeroes_beside_a_small_direct_write_stay() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = FileOptions {
        write: true,
        create: true,
        direct: true,
    };
    let Ok(file) = FileStorage::open(&dir.path().join("raw"), options) else {
        println!("no O_DIRECT here");
        return;
    };
    let file: &dyn Storage = &file;
    let half = file.alignment() / 2;
    for _ in 0..rounds() {
        for unmap in [false, true] {
            file.write_at(&vec![7; 2 * half], 0).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| file.write_zeroes(0, half as u64, unmap).unwrap());
                scope.spawn(|| file.write_at(&vec![9; half], half as u64).unwrap());
            });
            let mut seen = vec![1; 2 * half];
            file.read_at(&mut seen, 0).unwrap();
            assert!(seen[half..].iter().all(|byte| *byte == 9));
            assert!(seen[..half].iter().all(|byte| *byte == 0), "zeroes undone");
        }
    }
}
