//! Power is lost while many threads use an image: it opens, holds what any thread's flush covered,
//! and has at most leaks.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Random, shapes};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{History, PowerDisk};
use strata_qcow2::{
    AmendOptions, CreateOptions, FindingKind, Image, NewSnapshot, OpenOptions, Preallocation,
    Repair, Storage,
};

const THREADS: u64 = 3;
/// Clusters that the threads share; they take turns.
const CLUSTERS: u64 = 96;

/// When something began and when it had ended, in changes of the disk.
#[derive(Clone, Copy)]
struct Span {
    begun: usize,
    ended: usize,
}

/// What one thread did.
#[derive(Default)]
struct Log {
    /// The cluster, and the byte that fills it afterwards.
    writes: Vec<(Span, u64, u8)>,
    flushes: Vec<Span>,
}

fn open(bytes: Vec<u8>) -> Image {
    let options = OpenOptions {
        writable: true,
        ..Default::default()
    };
    Image::open(Arc::new(MemoryStorage::new(bytes)), options).unwrap()
}

fn work(image: &Image, history: &History, number: u64, seed: u64) -> Log {
    let mut random = Random(seed * THREADS + number);
    let mut log = Log::default();
    let size = image.geometry().cluster_size();
    for _ in 0..60 {
        let begun = history.now();
        let cluster = random.below(CLUSTERS / THREADS) * THREADS + number;
        let at = cluster * size;
        let data = vec![1 + random.below(255) as u8; size as usize];
        let kind = random.below(12);
        match kind {
            0..=4 => image.write_at(&data, at).unwrap(),
            5 | 6 => image.write_compressed(&data, at).unwrap(),
            7 | 8 => image.discard(at, size).unwrap(),
            9 => image.write_zeroes(at, size, false).unwrap(),
            _ => image.flush().unwrap(),
        }
        let ended = history.now();
        let span = Span { begun, ended };
        match kind {
            0..=6 => log.writes.push((span, cluster, data[0])),
            7..=9 => log.writes.push((span, cluster, 0)),
            _ => log.flushes.push(span),
        }
    }
    log
}

/// What happens besides.
fn disturb(image: &Image, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed);
    let size = CLUSTERS * image.geometry().cluster_size();
    let old = image.header().version < 3;
    while !stop.load(Ordering::Relaxed) {
        match random.below(6) {
            0 => {
                let id = image.create_snapshot(&NewSnapshot::default()).unwrap();
                thread::yield_now();
                image.delete_snapshot(&id).unwrap();
            }
            1 if !old => {
                image.add_bitmap("b", 4096).unwrap();
                image.remove_bitmap("b").unwrap();
            }
            2 => {
                let size = size * (1 + random.below(9));
                image.resize(size, Preallocation::Off).unwrap();
            }
            3 if !old => {
                let lazy_refcounts = Some(random.below(2) == 0);
                let options = AmendOptions {
                    lazy_refcounts,
                    ..Default::default()
                };
                image.amend(&options).unwrap();
            }
            4 => {
                image.check(Repair::All, &mut |_| {}).unwrap();
            }
            _ => thread::yield_now(),
        }
    }
}

/// The bytes that each cluster may hold after power was lost at `moment`.
fn allowed(logs: &[Log], moment: usize) -> Vec<BTreeSet<u8>> {
    let flushes = logs.iter().flat_map(|log| &log.flushes);
    let durable = flushes.filter(|flush| flush.ended <= moment);
    let durable = durable.map(|flush| flush.begun).max().unwrap_or(0);
    let mut allowed = vec![BTreeSet::from([0]); CLUSTERS as usize];
    for (span, cluster, byte) in logs.iter().flat_map(|log| &log.writes) {
        let bytes = &mut allowed[*cluster as usize];
        if span.ended <= durable {
            bytes.clear();
        }
        if span.begun <= moment {
            bytes.insert(*byte);
        }
    }
    allowed
}

fn judge(bytes: Vec<u8>, allowed: &[BTreeSet<u8>]) -> Result<(), String> {
    let image = open(bytes);
    let mut told = Vec::new();
    image
        .check(Repair::Nothing, &mut |finding| told.push(finding.clone()))
        .map_err(|error| error.to_string())?;
    told.retain(|finding| finding.kind != FindingKind::Leak);
    if !told.is_empty() {
        return Err(format!("{told:?}"));
    }
    let size = image.geometry().cluster_size();
    let mut seen = vec![0; size as usize];
    for (number, allowed) in allowed.iter().enumerate() {
        image.read_at(&mut seen, number as u64 * size).unwrap();
        if let Some(byte) = seen.iter().find(|byte| !allowed.contains(byte)) {
            return Err(format!("cluster {number}: {byte}, not one of {allowed:?}"));
        }
    }
    Ok(())
}

fn lose_power(options: &CreateOptions, seed: u64) {
    let made = Arc::new(MemoryStorage::default());
    options.create(&(Arc::clone(&made) as _)).unwrap();
    let history = Arc::new(History::default());
    let disk = Arc::new(PowerDisk::new(&history, 0, made.to_vec()));
    let writable = OpenOptions {
        writable: true,
        ..Default::default()
    };
    let image = Image::open(Arc::clone(&disk) as Arc<dyn Storage>, writable).unwrap();
    let stop = AtomicBool::new(false);
    let logs: Vec<Log> = thread::scope(|scope| {
        let (image, history, stop) = (&image, &*history, &stop);
        scope.spawn(move || disturb(image, seed, stop));
        let workers: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || work(image, history, number, seed)))
            .collect();
        let logs: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        logs.into_iter().map(|log| log.unwrap()).collect()
    });
    image.abandon();
    let end = history.now();
    let mut random = Random(seed);
    for number in 0..60 {
        let moment = random.below(end as u64 + 1) as usize;
        let chance = [0, 100, 50][number % 3];
        let bytes = disk.after_power_loss(moment, &mut |_, _| random.below(100) < chance);
        if let Err(why) = judge(bytes, &allowed(&logs, moment)) {
            let CreateOptions {
                version,
                cluster_size,
                ..
            } = options;
            panic!(
                "version {version}, clusters of {cluster_size}, seed {seed}: power lost after \
                 {moment} of {end}: {why}"
            );
        }
    }
}

#[test]
fn power_is_lost_while_threads_use_an_image() {
    let rounds = match std::env::var_os("STRATA_TEST_LONG") {
        Some(_) => 60,
        None => 3,
    };
    // The larger the clusters, the fewer images can be looked at.
    let small = |options: &CreateOptions| options.cluster_size <= 16 << 10;
    for mut options in shapes(0).into_iter().filter(small) {
        options.size = CLUSTERS * options.cluster_size;
        for version in [2, 3] {
            let plain = !options.extended_l2 && !options.lazy_refcounts;
            if version == 2 && !(plain && options.refcount_bits == 16) {
                continue;
            }
            options.version = version;
            for seed in 0..rounds {
                lose_power(&options, seed);
            }
        }
    }
}
