//! Many threads on one image: what each wrote is there, what several wrote is one of theirs, and
//! snapshots show one moment.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::stopping::Stopping;
use common::{Random, is_sound, made, qemu_check, qemu_compare, rounds, shapes};
use strata_qcow2::{CreateOptions, Image, NewSnapshot, OpenOptions, Repair, Storage};

const THREADS: u64 = 6;
/// Bytes that only one thread uses.
const PART: u64 = 300 << 10;

/// Random operations on one thread's part of the disk, and their model. The parts of two threads
/// share clusters where they meet.
fn work(image: &Image, number: u64) -> Vec<u8> {
    let mut random = Random(number + 1);
    let mut model = vec![0; PART as usize];
    let start = number * PART;
    let cluster = image.geometry().cluster_size();
    for _ in 0..rounds() {
        let from = random.below(PART);
        let length = (1 + random.below([600, 9000, 40_000][from as usize % 3])).min(PART - from);
        let range = from as usize..(from + length) as usize;
        match random.below(16) {
            0..=6 => {
                let data = random.bytes(length as usize);
                image.write_at(&data, start + from).unwrap();
                model[range].copy_from_slice(&data);
            }
            7 => {
                image
                    .write_zeroes(start + from, length, random.below(2) == 0)
                    .unwrap();
                model[range].fill(0);
            }
            8 => {
                image.discard(start + from, length).unwrap();
                // Whole clusters only; neighbours' bytes are in none of them.
                let low = (start + from).next_multiple_of(cluster);
                let end = start + from + length;
                let last = if end == THREADS * PART {
                    end.next_multiple_of(cluster)
                } else {
                    end
                };
                let high = (last / cluster * cluster).min(THREADS * PART);
                if low < high {
                    model[(low - start) as usize..(high - start) as usize].fill(0);
                }
            }
            9 => {
                let at = (start + from).next_multiple_of(cluster);
                if at + cluster <= start + PART {
                    let data = random.bytes(cluster as usize);
                    image.write_compressed(&data, at).unwrap();
                    let at = (at - start) as usize;
                    model[at..at + cluster as usize].copy_from_slice(&data);
                }
            }
            10 => image.flush().unwrap(),
            _ => {
                let mut seen = vec![0xee; length as usize];
                image.read_at(&mut seen, start + from).unwrap();
                assert!(
                    seen == model[range],
                    "thread {number} reads others' bytes at {from:#x}"
                );
            }
        }
    }
    model
}

/// Takes, shows and deletes snapshots until told to stop.
fn snapshots(image: &Image, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("s{count}");
        let new = NewSnapshot {
            name: name.clone(),
            ..Default::default()
        };
        image.create_snapshot(&new).unwrap();
        let show = |name: &str| {
            let options = OpenOptions {
                snapshot: Some(name.into()),
                ..Default::default()
            };
            let view = Image::open(Arc::clone(image.storage()), options).unwrap();
            let mut all = vec![0; view.size() as usize];
            view.read_at(&mut all, 0).unwrap();
            all
        };
        let before = show(&name);
        thread::sleep(std::time::Duration::from_millis(15));
        assert!(show(&name) == before, "a snapshot changed");
        image.delete_snapshot(&name).unwrap();
        count += 1;
    }
    count
}

#[test]
fn each_thread_finds_what_it_wrote_while_snapshots_come_and_go() {
    for (number, options) in shapes(THREADS * PART).iter().enumerate() {
        let (_dir, path, image) = made(options);
        let stop = AtomicBool::new(false);
        let model = thread::scope(|scope| {
            let taker = scope.spawn(|| snapshots(&image, &stop));
            let image = &image;
            let workers: Vec<_> = (0..THREADS)
                .map(|number| scope.spawn(move || work(image, number)))
                .collect();
            let parts: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            stop.store(true, Ordering::Relaxed);
            println!("shape {number}: {} snapshots", taker.join().unwrap());
            parts
                .into_iter()
                .flat_map(|part| part.unwrap())
                .collect::<Vec<u8>>()
        });
        let mut all = vec![0; model.len()];
        image.read_at(&mut all, 0).unwrap();
        assert!(all == model, "shape {number}");
        is_sound(&image);
        image.close().unwrap();
        qemu_check(&path);
        qemu_compare(&path, &model);
    }
}

/// The threads' sectors alternate, so that they share clusters, which come and go under them.
#[test]
fn every_thread_reads_what_it_wrote() {
    const SIZE: u64 = 8 << 20;
    const SECTOR: u64 = 512;
    const THREADS: u64 = 4;
    for extended_l2 in [false, true] {
        let (_dir, path, image) = made(&CreateOptions {
            size: SIZE,
            extended_l2,
            ..Default::default()
        });
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let image = &image;
                    scope.spawn(move || {
                        let mut random = Random(thread + 1);
                        let mut model = vec![0u8; (SIZE / SECTOR) as usize];
                        for _ in 0..4000 {
                            let sector = random.below(SIZE / SECTOR / THREADS) * THREADS + thread;
                            let mut buf = vec![0; SECTOR as usize];
                            image.read_at(&mut buf, sector * SECTOR).unwrap();
                            assert_eq!(buf, vec![model[sector as usize]; SECTOR as usize]);
                            let value = random.next() as u8;
                            buf.fill(value);
                            image.write_at(&buf, sector * SECTOR).unwrap();
                            model[sector as usize] = value;
                            if random.below(200) == 0 {
                                image.flush().unwrap();
                            }
                        }
                    })
                })
                .collect();
            let (image, done) = (&image, &done);
            let other = scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let id = image.create_snapshot(&NewSnapshot::default()).unwrap();
                    std::thread::yield_now();
                    image.delete_snapshot(&id).unwrap();
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            other.join().unwrap();
        });
        is_sound(&image);
        image.close().unwrap();
        drop(image);
        qemu_check(&path);
    }
}

/// Zeroes for a part of a cluster without data may flag all of it, but not once another part has
/// got data.
#[test]
fn zeroes_leave_what_is_written_beside_them() {
    const SECTOR: u64 = 512;
    const THREADS: u64 = 3;
    const SIZE: u64 = 512 << 10;
    for options in shapes(SIZE) {
        // Sectors of one cluster, where it has so many, and of one subcluster else.
        let clusters = SIZE / options.cluster_size;
        let (_dir, path, image) = made(&options);
        for round in 0..rounds() / 20 {
            image.discard(0, SIZE).unwrap();
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (image, options) = (&image, &options);
                    scope.spawn(move || {
                        for cluster in 0..clusters {
                            let at = cluster * options.cluster_size + thread * SECTOR;
                            if at + SECTOR > SIZE {
                                break;
                            }
                            if thread == (cluster + round) % THREADS {
                                image.write_at(&[7; SECTOR as usize], at).unwrap();
                            } else if options.cluster_size > SECTOR {
                                image.write_zeroes(at, SECTOR, true).unwrap();
                            }
                        }
                    });
                }
            });
            for cluster in 0..clusters {
                let at = cluster * options.cluster_size + (cluster + round) % THREADS * SECTOR;
                let mut seen = [0; SECTOR as usize];
                image.read_at(&mut seen, at.min(SIZE - SECTOR)).unwrap();
                assert!(
                    at >= SIZE || seen == [7; SECTOR as usize],
                    "round {round}, {at:#x}"
                );
            }
        }
        is_sound(&image);
        image.close().unwrap();
        qemu_check(&path);
    }
}

#[test]
fn of_overlapping_writes_each_sector_is_one() {
    const SIZE: u64 = 96 << 10;
    for options in shapes(SIZE) {
        let (_dir, path, image) = made(&options);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let image = &image;
                scope.spawn(move || {
                    let mut random = Random(number + 50);
                    for round in 0..rounds() {
                        let at = random.below(SIZE / 512) * 512;
                        let length = ((1 + random.below(40)) * 512).min(SIZE - at);
                        match random.below(10) {
                            0 => image.discard(at, length).unwrap(),
                            1 => image.write_zeroes(at, length, true).unwrap(),
                            2 => image.flush().unwrap(),
                            3..=5 => {
                                let mut seen = vec![0xee; length as usize];
                                image.read_at(&mut seen, at).unwrap();
                                assert!(
                                    seen.iter().all(|byte| u64::from(*byte) <= THREADS),
                                    "bytes that nobody wrote"
                                );
                            }
                            _ => {
                                let data = vec![number as u8 + 1; length as usize];
                                image.write_at(&data, at).unwrap();
                            }
                        }
                        if round % 40 == 0 && number == 0 {
                            let new = NewSnapshot {
                                name: "s".into(),
                                ..Default::default()
                            };
                            image.create_snapshot(&new).unwrap();
                            image.write_at(&[1; 512], 0).unwrap();
                            image.delete_snapshot("s").unwrap();
                        }
                    }
                });
            }
        });
        is_sound(&image);
        image.close().unwrap();
        qemu_check(&path);
    }
}

/// Everything before a flush that returned is on the disk, whoever wrote it.
#[test]
fn a_flush_covers_what_other_threads_had_written() {
    use strata_qcow2::Storage;
    use strata_qcow2::test_utils::{History, PowerDisk};

    const SIZE: u64 = 512 << 10;
    let made = Arc::new(strata_qcow2::storage::MemoryStorage::default());
    let storage: Arc<dyn Storage> = Arc::clone(&made) as _;
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 1024,
        ..Default::default()
    };
    options.create(&storage).unwrap();
    let history = Arc::new(History::default());
    let disk = Arc::new(PowerDisk::new(&history, 0, made.to_vec()));
    let writable = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(Arc::clone(&disk) as _, writable).unwrap();
    // How far each thread has come in its own part, in sectors.
    let written: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let part = SIZE / 4;
    let flushed = thread::scope(|scope| {
        for (number, progress) in written.iter().enumerate() {
            let image = &image;
            scope.spawn(move || {
                for sector in 0..part / 512 {
                    let at = number as u64 * part + sector * 512;
                    image.write_at(&[number as u8 + 1; 512], at).unwrap();
                    progress.store(sector + 1, Ordering::SeqCst);
                }
            });
        }
        let mut flushed = Vec::new();
        for _ in 0..40 {
            let before: Vec<u64> = written.iter().map(|n| n.load(Ordering::SeqCst)).collect();
            image.flush().unwrap();
            flushed.push((history.now(), before));
            thread::sleep(std::time::Duration::from_millis(1));
        }
        flushed
    });
    image.abandon();
    for (moment, sectors) in flushed {
        let bytes = disk.after_power_loss(moment, &mut |_, _| false);
        let storage = Arc::new(strata_qcow2::storage::MemoryStorage::new(bytes));
        let image = Image::open(storage, OpenOptions::default()).unwrap();
        for (number, count) in sectors.into_iter().enumerate() {
            let mut seen = vec![0; (count * 512) as usize];
            image.read_at(&mut seen, number as u64 * part).unwrap();
            assert!(
                seen.iter().all(|byte| *byte == number as u8 + 1),
                "lost by a flush"
            );
        }
        let report = image.check(Repair::Nothing, &mut |_| {}).unwrap();
        assert_eq!(report.corruptions + report.check_errors, 0);
    }
}

#[test]
fn readers_go_on_while_a_writer_waits_for_a_flush() {
    /// Guest bytes that one slice of an L2 table maps.
    const SPAN: u64 = 32 << 20;
    const SLICES: u64 = 256;
    let slow = Arc::new(Stopping::new(Vec::new()));
    let file: Arc<dyn Storage> = slow.clone();
    let create = CreateOptions {
        size: SLICES * SPAN,
        ..Default::default()
    };
    create.create(&file).unwrap();
    let open = || {
        let options = OpenOptions {
            writable: true,
            l2_cache: 64 << 10,
            ..Default::default()
        };
        Image::open(file.clone(), options).unwrap()
    };
    let image = open();
    for slice in 0..SLICES {
        image.write_at(&[slice as u8; 512], slice * SPAN).unwrap();
    }
    image.close().unwrap();

    let image = Arc::new(open());
    image.write_at(&[0; 512], 0).unwrap();
    slow.stop_after(0);
    let writer = {
        let image = image.clone();
        thread::spawn(move || {
            for slice in 0..SLICES {
                let offset = slice * SPAN + (1 << 20);
                image.write_at(&[!slice as u8; 512], offset).unwrap();
            }
        })
    };
    assert!(slow.wait(), "no slice had to make room for another");
    let (done, told) = mpsc::channel();
    let reader = {
        let image = image.clone();
        thread::spawn(move || {
            for slice in 1..SLICES {
                let mut buf = [0; 512];
                image.read_at(&mut buf, slice * SPAN).unwrap();
                assert_eq!(buf, [slice as u8; 512]);
            }
            done.send(()).unwrap();
        })
    };
    let in_time = told.recv_timeout(Duration::from_secs(60));
    slow.let_go();
    reader.join().unwrap();
    writer.join().unwrap();
    in_time.expect("readers waited for the flush");
    for slice in 0..SLICES {
        let mut buf = [0; 512];
        image.read_at(&mut buf, slice * SPAN + (1 << 20)).unwrap();
        assert_eq!(buf, [!slice as u8; 512]);
    }
    is_sound(&image);
    image.close().unwrap();
}

#[test]
fn writes_all_over_a_disk_do_not_flush_by_themselves() {
    const SPAN: u64 = 32 << 20;
    let slow = Arc::new(Stopping::new(Vec::new()));
    let file: Arc<dyn Storage> = slow.clone();
    let size = 128 * SPAN;
    let create = CreateOptions {
        size,
        ..Default::default()
    };
    create.create(&file).unwrap();
    let options = OpenOptions {
        writable: true,
        ..Default::default()
    };
    let image = Image::open(file, options).unwrap();
    image.write_at(&[1; 512], 0).unwrap();
    const MANY: u32 = 1000;
    slow.stop_after(MANY);
    for slice in 0..size / SPAN {
        image.write_at(&[1; 512], slice * SPAN + (1 << 20)).unwrap();
    }
    assert_eq!(slow.left(), Some(MANY), "a set of the cache was full");
    image.close().unwrap();
}
