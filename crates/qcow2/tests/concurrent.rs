//! Many threads on one image: what each wrote is there, what several wrote is one of theirs, and
//! snapshots show one moment.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{Random, create, open, qemu_check, qemu_compare};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    CreateOptions, Extent, Image, NewSnapshot, OpenOptions, Preallocation, Repair, Storage,
};

const THREADS: u64 = 6;
/// Bytes that only one thread uses.
const PART: u64 = 300 << 10;

fn rounds() -> u64 {
    if std::env::var_os("STRATA_TEST_LONG").is_some() {
        3000
    } else {
        200
    }
}

fn shapes() -> Vec<CreateOptions> {
    let base = CreateOptions {
        size: THREADS * PART,
        cluster_size: 4096,
        ..Default::default()
    };
    vec![
        base.clone(),
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 64,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 64 << 10,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 16 << 10,
            extended_l2: true,
            ..base.clone()
        },
        CreateOptions {
            lazy_refcounts: true,
            ..base
        },
    ]
}

fn is_sound(image: &Image) {
    let mut told = Vec::new();
    let report = image
        .check(Repair::Nothing, &mut |finding| told.push(finding.clone()))
        .unwrap();
    assert!(report.is_clean(), "{told:?}");
}

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
    for (number, options) in shapes().iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        create(&path, options);
        let image = open(&path);
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

#[test]
fn of_overlapping_writes_each_sector_is_one() {
    const SIZE: u64 = 96 << 10;
    for options in shapes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        create(
            &path,
            &CreateOptions {
                size: SIZE,
                ..options
            },
        );
        let image = open(&path);
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

/// The disk may be resized and looked at from all sides meanwhile.
#[test]
fn sizes_change_under_readers_and_writers() {
    const SIZE: u64 = 200 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: SIZE,
            cluster_size: 1024,
            ..Default::default()
        },
    );
    let image = open(&path);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4u64 {
            let (image, stop) = (&image, &stop);
            scope.spawn(move || {
                let mut random = Random(number);
                while !stop.load(Ordering::Relaxed) {
                    let at = random.below(SIZE);
                    // Out of range is an answer, too.
                    let _ = image.write_at(&[number as u8; 3000], at);
                    let _ = image.read_at(&mut [0; 3000], at);
                    let _ = image.discard(at, 5000);
                }
            });
        }
        let mut random = Random(9);
        for _ in 0..rounds() / 4 {
            let size = (1 + random.below(SIZE / 512)) * 512;
            image.resize(size, Preallocation::Off).unwrap();
            assert_eq!(image.size(), size);
        }
        stop.store(true, Ordering::Relaxed);
    });
    is_sound(&image);
    image.close().unwrap();
    qemu_check(&path);
}

/// Sizes that several threads ask for are taken one after the other.
#[test]
fn sizes_are_changed_by_one_at_a_time() {
    const SIZE: u64 = 100 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 512,
        ..Default::default()
    };
    create(&path, &options);
    let image = open(&path);
    image.create_snapshot(&NewSnapshot::default()).unwrap();
    for round in 0..rounds() / 5 {
        thread::scope(|scope| {
            for number in 0..6 {
                let image = &image;
                scope.spawn(move || {
                    let mut random = Random(round * 6 + number);
                    for _ in 0..4 {
                        let size = (1 + random.below(SIZE / 512)) * 512;
                        image.resize(size, Preallocation::Off).unwrap();
                        let _ = image.write_at(&[9; 700], size - 512);
                    }
                    if number == 0 {
                        image.apply_snapshot("1").unwrap();
                    }
                });
            }
        });
        assert_eq!(image.size(), image.header().size);
        is_sound(&image);
        let end = image.size();
        image.resize(SIZE * 2, Preallocation::Off).unwrap();
        let mut all = vec![0xee; (SIZE * 2 - end) as usize];
        image.read_at(&mut all, end).unwrap();
        assert!(all.iter().all(|&byte| byte == 0), "stale bytes");
    }
}

/// Writes past the new end of a disk that shrinks meanwhile are done before it is cut, or fail:
/// nothing of them stays behind, and nothing shows when the disk grows again.
#[test]
fn writes_do_not_outlive_a_cut() {
    const HALF: u64 = 64 << 10;
    for options in shapes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let options = CreateOptions {
            size: 2 * HALF,
            ..options
        };
        create(&path, &options);
        let image = open(&path);
        for round in 0..rounds() / 5 {
            thread::scope(|scope| {
                for number in 0..3 {
                    let image = &image;
                    scope.spawn(move || {
                        let mut random = Random(round * 3 + number);
                        let cluster = options.cluster_size as usize;
                        loop {
                            let at = HALF + random.below(HALF);
                            let whole = at - at % options.cluster_size;
                            let done = match random.below(4) {
                                0 => image.write_compressed(&vec![6; cluster], whole),
                                1 => image.write_zeroes(at, (2 * HALF - at).min(700), true),
                                _ => image
                                    .write_at(&[5; 300][..(2 * HALF - at).min(300) as usize], at),
                            };
                            if done.is_err() {
                                break;
                            }
                        }
                    });
                }
                thread::sleep(std::time::Duration::from_micros(round % 400));
                image.resize(HALF, Preallocation::Off).unwrap();
            });
            is_sound(&image);
            image.resize(2 * HALF, Preallocation::Off).unwrap();
            let mut all = vec![0xee; HALF as usize];
            image.read_at(&mut all, HALF).unwrap();
            assert!(all.iter().all(|&byte| byte == 0), "stale bytes");
        }
        image.close().unwrap();
        qemu_check(&path);
    }
}

/// An engine that found an extent may still be reading it when its cluster is given up.
#[test]
fn a_freed_cluster_waits_for_who_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: 1 << 20,
            cluster_size: 4096,
            ..Default::default()
        },
    );
    let image = open(&path);
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
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: 1 << 20,
            cluster_size: 4096,
            ..Default::default()
        },
    );
    let image = open(&path);
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

/// A file whose flushes last until they are let go.
struct SlowToFlush {
    file: MemoryStorage,
    /// A flush waits; flushes are let go.
    waits: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl SlowToFlush {
    fn new() -> Self {
        Self {
            file: MemoryStorage::default(),
            waits: Mutex::new((false, true)),
            changed: Condvar::new(),
        }
    }

    fn wait_for_a_flush(&self) {
        let waits = self.waits.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (_waits, late) = self
            .changed
            .wait_timeout_while(waits, limit, |(waits, _)| !*waits)
            .unwrap();
        assert!(!late.timed_out(), "no slice had to make room for another");
    }

    fn let_go(&self) {
        self.waits.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Storage for SlowToFlush {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let mut waits = self.waits.lock().unwrap();
        waits.0 = true;
        self.changed.notify_all();
        let _gone = self.changed.wait_while(waits, |(_, go)| !*go).unwrap();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }
}

#[test]
fn readers_go_on_while_a_writer_waits_for_a_flush() {
    /// Guest bytes that one slice of an L2 table maps.
    const SPAN: u64 = 32 << 20;
    const SLICES: u64 = 256;
    let slow = Arc::new(SlowToFlush::new());
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
    *slow.waits.lock().unwrap() = (false, false);
    let writer = {
        let image = image.clone();
        thread::spawn(move || {
            for slice in 0..SLICES {
                let offset = slice * SPAN + (1 << 20);
                image.write_at(&[!slice as u8; 512], offset).unwrap();
            }
        })
    };
    slow.wait_for_a_flush();
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
    let slow = Arc::new(SlowToFlush::new());
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
    slow.waits.lock().unwrap().0 = false;
    for slice in 0..size / SPAN {
        image.write_at(&[1; 512], slice * SPAN + (1 << 20)).unwrap();
    }
    assert!(!slow.waits.lock().unwrap().0, "a set of the cache was full");
    image.close().unwrap();
}
