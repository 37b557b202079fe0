//! Flushes that last: others go on meanwhile, and a loss of power finds what was flushed.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread;
use std::time::Duration;

use common::stopping::Stopping;
use common::{Random, is_sound};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults, History, PowerDisk};
use strata_qcow2::{CreateOptions, FindingKind, Image, NewSnapshot, OpenOptions, Repair, Storage};

/// So small, with the widest refcounts, that refcount blocks and L2 tables are many.
const CLUSTER: u64 = 512;
const CLUSTERS: u64 = 2048;
/// Nothing here takes this long unless it never ends.
const LIMIT: Duration = Duration::from_secs(60);

fn created() -> Vec<u8> {
    let options = CreateOptions {
        size: CLUSTERS * CLUSTER,
        cluster_size: CLUSTER,
        refcount_bits: 64,
        ..Default::default()
    };
    let made = Arc::new(MemoryStorage::default());
    options.create(&(Arc::clone(&made) as _)).unwrap();
    made.to_vec()
}

fn open(storage: Arc<dyn Storage>) -> Image {
    let writable = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    Image::open(storage, writable).unwrap()
}

/// What a request does with whole clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Compressed,
    Discard,
    Zeroes,
}

/// A request for clusters `from..to`; `byte` is what they read as afterwards.
#[derive(Debug, Clone, Copy)]
struct Request {
    kind: Kind,
    from: u64,
    to: u64,
    byte: u8,
}

impl Request {
    fn new(kind: Kind, from: u64, to: u64, byte: u8) -> Self {
        let byte = match kind {
            Kind::Write | Kind::Compressed => byte,
            Kind::Discard | Kind::Zeroes => 0,
        };
        Self {
            kind,
            from,
            to,
            byte,
        }
    }

    fn random(random: &mut Random) -> Self {
        let kind = match random.below(8) {
            0..=3 => Kind::Write,
            4 | 5 => Kind::Compressed,
            6 => Kind::Discard,
            _ => Kind::Zeroes,
        };
        let from = random.below(CLUSTERS);
        let to = (from + 1 + random.below(40)).min(CLUSTERS);
        Self::new(kind, from, to, 1 + random.below(255) as u8)
    }

    fn run(self, image: &Image) -> strata_qcow2::Result<()> {
        let (offset, length) = (self.from * CLUSTER, (self.to - self.from) * CLUSTER);
        let data = vec![self.byte; length as usize];
        match self.kind {
            Kind::Write => image.write_at(&data, offset),
            Kind::Compressed => (self.from..self.to).try_for_each(|cluster| {
                image.write_compressed(&data[..CLUSTER as usize], cluster * CLUSTER)
            }),
            Kind::Discard => image.discard(offset, length),
            Kind::Zeroes => image.write_zeroes(offset, length, true),
        }
    }

    fn apply(self, model: &mut [u8]) {
        model[self.from as usize..self.to as usize].fill(self.byte);
    }
}

/// What each cluster of the disk holds, which must be one byte many times.
fn contents(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; (CLUSTERS * CLUSTER) as usize];
    image.read_at(&mut bytes, 0).unwrap();
    let clusters = bytes.chunks(CLUSTER as usize);
    clusters
        .map(|cluster| {
            assert!(cluster.iter().all(|byte| *byte == cluster[0]));
            cluster[0]
        })
        .collect()
}

#[test]
fn every_request_goes_on_in_every_part_of_a_flush() {
    // Data and refcount blocks, the refcount table, L2 and L1 tables.
    for part in 0..3 {
        let stopping = Arc::new(Stopping::new(created()));
        let image = Arc::new(open(Arc::clone(&stopping) as _));
        let mut model = vec![0; CLUSTERS as usize];
        let before = [
            Request::new(Kind::Write, 0, 150, 1),
            Request::new(Kind::Compressed, 150, 200, 2),
        ];
        for request in before {
            request.run(&image).unwrap();
            request.apply(&mut model);
        }
        stopping.stop_after(part);
        let flusher = {
            let image = Arc::clone(&image);
            thread::spawn(move || image.flush())
        };
        assert!(stopping.wait(), "a flush has no part {part}");
        let (done, told) = mpsc::channel();
        let worker = {
            let image = Arc::clone(&image);
            let mut model = model.clone();
            thread::spawn(move || {
                let meanwhile = [
                    // In place, and what the flush is about to link.
                    Request::new(Kind::Write, 10, 20, 3),
                    // Allocating, with new refcount blocks and L2 tables.
                    Request::new(Kind::Write, 190, 600, 4),
                    Request::new(Kind::Compressed, 600, 640, 5),
                    Request::new(Kind::Discard, 30, 40, 0),
                    Request::new(Kind::Zeroes, 40, 50, 0),
                ];
                for request in meanwhile {
                    request.run(&image).unwrap();
                    request.apply(&mut model);
                    assert!(contents(&image) == model, "{request:?}");
                    done.send(()).unwrap();
                }
                model
            })
        };
        let in_time = (0..5).try_for_each(|_| told.recv_timeout(LIMIT));
        stopping.let_go();
        in_time.unwrap_or_else(|_| panic!("a request waits for part {part} of a flush"));
        let model = worker.join().unwrap();
        flusher.join().unwrap().unwrap();
        image.flush().unwrap();
        assert!(contents(&image) == model, "part {part}");
        is_sound(&image);
        image.close().unwrap();
    }
}

/// What no table names any more is freed now and then without a flush of the guest's; that holds
/// nobody else up either.
#[test]
fn requests_go_on_while_a_long_list_is_freed() {
    const MANY: u64 = 70_000;
    let stopping = Arc::new(Stopping::new(Vec::new()));
    let options = CreateOptions {
        size: (MANY + 100) * CLUSTER,
        cluster_size: CLUSTER,
        ..Default::default()
    };
    options.create(&(Arc::clone(&stopping) as _)).unwrap();
    let image = Arc::new(open(Arc::clone(&stopping) as _));
    image
        .write_at(&vec![1; (MANY * CLUSTER) as usize], 0)
        .unwrap();
    image.flush().unwrap();
    stopping.stop_after(0);
    let discarder = {
        let image = Arc::clone(&image);
        thread::spawn(move || image.discard(0, MANY * CLUSTER))
    };
    assert!(stopping.wait(), "nothing is freed before the guest flushes");
    let (done, told) = mpsc::channel();
    let writer = {
        let image = Arc::clone(&image);
        thread::spawn(move || {
            image.write_at(&[2; 4096], MANY * CLUSTER).unwrap();
            done.send(()).unwrap();
        })
    };
    let in_time = told.recv_timeout(LIMIT / 6);
    stopping.let_go();
    in_time.expect("a write waits until clusters are freed");
    writer.join().unwrap();
    discarder.join().unwrap().unwrap();
    image.flush().unwrap();
    is_sound(&image);
    image.close().unwrap();
}

/// An operation on the whole image, or the growth of the refcount table, does not wait for a
/// flush under way but does its work.
#[test]
fn operations_on_the_whole_image_take_a_flush_over() {
    for part in 0..3 {
        let stopping = Arc::new(Stopping::new(created()));
        let image = Arc::new(open(Arc::clone(&stopping) as _));
        Request::new(Kind::Write, 0, 150, 1).run(&image).unwrap();
        stopping.stop_after(part);
        let flushes: Vec<_> = (0..3)
            .map(|_| {
                let image = Arc::clone(&image);
                thread::spawn(move || image.flush())
            })
            .collect();
        assert!(stopping.wait());
        let snapshot = NewSnapshot {
            name: "s".into(),
            ..NewSnapshot::default()
        };
        image.create_snapshot(&snapshot).unwrap();
        Request::new(Kind::Write, 100, 300, 2).run(&image).unwrap();
        is_sound(&image);
        stopping.let_go();
        for flush in flushes {
            flush.join().unwrap().unwrap();
        }
        image.apply_snapshot("s").unwrap();
        let seen = contents(&image);
        assert!(seen[..150].iter().all(|byte| *byte == 1) && seen[150..].iter().all(|b| *b == 0));
        image.close().unwrap();
    }
}

/// A disk with requests to its own image before and after each of its flushes.
struct Busy {
    disk: Arc<dyn Storage>,
    image: OnceLock<Weak<Image>>,
    log: Arc<Log>,
}

/// What was asked of the disk so far.
struct Log {
    history: Arc<History>,
    /// The moment at which each request began.
    requests: Mutex<Vec<(usize, Request)>>,
    random: Mutex<Random>,
    /// Flushes of the disk shall be busy.
    armed: AtomicBool,
    /// Flushes fail, and so may what needs one.
    failing: bool,
}

impl Log {
    fn request(&self, image: &Image) {
        let request = Request::random(&mut self.random.lock().unwrap());
        let entry = (self.history.now(), request);
        self.requests.lock().unwrap().push(entry);
        let done = request.run(image);
        assert!(done.is_ok() || self.failing, "{request:?}: {done:?}");
    }

    fn len(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl Busy {
    fn interrupt(&self) {
        if !self.log.armed.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Some(image) = self.image.get().and_then(Weak::upgrade) {
            let chance = self.log.random.lock().unwrap().below(16);
            if chance == 0 && !self.log.failing {
                let new = NewSnapshot {
                    name: self.log.len().to_string(),
                    ..NewSnapshot::default()
                };
                image.create_snapshot(&new).unwrap();
            }
            for _ in 0..chance % 3 {
                self.log.request(&image);
            }
        }
        self.log.armed.store(true, Ordering::SeqCst);
    }
}

impl Storage for Busy {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.disk.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.interrupt();
        self.disk.flush()?;
        self.interrupt();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }
}

/// Requests and flushes that others' requests come in between, on a disk whose flushes may fail.
struct Run {
    disk: Arc<PowerDisk>,
    log: Arc<Log>,
    /// The moment at which a flush had ended, and how many requests came before it began.
    flushed: Vec<(usize, usize)>,
}

fn record(seed: u64, rounds: u64, failing: bool) -> Run {
    let history = Arc::new(History::default());
    let disk = Arc::new(PowerDisk::new(&history, 0, created()));
    let faults = Arc::new(Faults::new(&history));
    let log = Arc::new(Log {
        history: Arc::clone(&history),
        requests: Mutex::default(),
        random: Mutex::new(Random(seed)),
        armed: AtomicBool::new(false),
        failing,
    });
    let busy = Arc::new(Busy {
        disk: Arc::new(FaultDisk::new(Arc::clone(&disk) as _, &faults)),
        image: OnceLock::new(),
        log: Arc::clone(&log),
    });
    let image = Arc::new(open(Arc::clone(&busy) as _));
    busy.image.set(Arc::downgrade(&image)).unwrap();
    let mut flushed = vec![(0, 0)];
    for round in 0..rounds {
        for _ in 0..3 {
            log.request(&image);
        }
        let before = log.len();
        if failing {
            faults.arm(Fault::LostFlush, round % 4, false);
        }
        log.armed.store(true, Ordering::SeqCst);
        let done = image.flush();
        log.armed.store(false, Ordering::SeqCst);
        let failures = faults.heal();
        match done {
            Ok(()) => flushed.push((history.now(), before)),
            Err(error) => assert!(failures > 0, "{error}"),
        }
    }
    if !failing {
        is_sound(&image);
    }
    image.abandon();
    Run { disk, log, flushed }
}

impl Run {
    /// What each cluster may hold after power was lost at `moment`.
    fn allowed(&self, moment: usize) -> Vec<BTreeSet<u8>> {
        let before = |(at, _): &&(usize, usize)| *at <= moment;
        let &(_, durable) = self.flushed.iter().rev().find(before).unwrap();
        let mut model = vec![BTreeSet::from([0]); CLUSTERS as usize];
        for (number, (at, request)) in self.log.requests.lock().unwrap().iter().enumerate() {
            for cluster in &mut model[request.from as usize..request.to as usize] {
                if number < durable {
                    cluster.clear();
                }
                if *at <= moment {
                    cluster.insert(request.byte);
                }
            }
        }
        model
    }

    /// Loses power at `moment`, with what `keep` keeps.
    fn judge(&self, moment: usize, keep: &mut dyn FnMut(usize, u64) -> bool, whole: bool) {
        let bytes = self.disk.after_power_loss(moment, keep);
        // A snapshot that was being taken left the dirty bit: opening to write repairs.
        let image = open(Arc::new(MemoryStorage::new(bytes)));
        let mut told = Vec::new();
        image
            .check(Repair::Nothing, &mut |finding| told.push(finding.clone()))
            .unwrap();
        told.retain(|finding| finding.kind != FindingKind::Leak);
        assert!(told.is_empty(), "{moment}: {told:?}");
        if !whole {
            return;
        }
        let seen = contents(&image);
        for (cluster, (byte, allowed)) in seen.iter().zip(self.allowed(moment)).enumerate() {
            let fits = allowed.contains(byte);
            assert!(
                fits,
                "{moment}: cluster {cluster}: {byte}, not one of {allowed:?}"
            );
        }
    }

    fn lose_power(&self, moment: usize, whole: bool) {
        self.judge(moment, &mut |_, _| false, whole);
        self.judge(moment, &mut |_, _| true, whole);
        let mut random = Random(moment as u64);
        self.judge(moment, &mut |_, _| random.below(2) == 0, whole);
    }
}

fn long() -> bool {
    std::env::var_os("STRATA_TEST_LONG").is_some()
}

#[test]
fn power_is_lost_with_requests_in_the_midst_of_flushes() {
    for seed in 1..=if long() { 40 } else { 6 } {
        let run = record(seed, 8, false);
        let end = run.log.history.now();
        let step = if long() { 1 } else { 11 };
        for moment in (seed as usize..=end).step_by(step).chain([end]) {
            run.lose_power(moment, true);
        }
    }
}

/// What was written before a flush that failed may be gone; the flush after it brings all tables
/// to the disk again.
#[test]
fn flushes_fail_with_requests_in_their_midst() {
    for seed in 1..=if long() { 40 } else { 6 } {
        let run = record(seed, 16, true);
        for (moment, _) in &run.flushed {
            run.lose_power(*moment, false);
        }
    }
}
