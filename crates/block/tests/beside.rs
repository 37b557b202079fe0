//! Requests of several queues, beside everything that the host does meanwhile: pauses, resets, other
//! limits, flushes, faults of the disk and retries. Each request is answered once, and well, and what
//! was written is there.

#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::create_with;
use common::guest::{DISCARD, FLUSH, Guest, IN, OK, OUT, WRITE_ZEROES, header, range};
use strata_block::{BlockControl, BlockOptions, Disk, DiskOptions, ErrorPolicy, Format, Limits};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults};
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, RawDisk, Storage};
use strata_virtio::VirtioPci;

const QUEUES: u16 = 4;
const SECTORS: u64 = 8192;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_micros(self.below(most)));
    }
}

/// A request that was made available.
struct Asked {
    queue: u16,
    head: u16,
    kind: u32,
    sectors: Range<usize>,
}

struct Test {
    guest: Guest,
    random: Random,
    /// The byte that fills each sector, if it is known.
    model: Vec<Option<u8>>,
    /// Held by who resets the device: while it is paused no vCPU runs.
    vcpus: Arc<Mutex<()>>,
}

impl Test {
    /// Makes requests available that do not overlap: clusters have parts from several queues.
    fn ask(&mut self) -> Vec<Asked> {
        let mut asked = Vec::new();
        let mut at = self.random.below(SECTORS - 16 * 60);
        for _ in 0..1 + self.random.below(60) {
            let queue = self.random.below(QUEUES.into()) as u16;
            let len = 1 + self.random.below(16);
            let sectors = at as usize..(at + len) as usize;
            let byte = self.random.below(256) as u8;
            let driver = &mut self.guest.driver;
            let (kind, head) = match self.random.below(20) {
                0..=7 => {
                    self.model[sectors.clone()].fill(Some(byte));
                    let data = vec![byte; len as usize * 512];
                    (OUT, driver.add(queue, &[&header(OUT, at), &data], &[1]))
                }
                8..=14 => {
                    let room = [len as u32 * 512, 1];
                    (IN, driver.add(queue, &[&header(IN, at)], &room))
                }
                15 => {
                    self.model[sectors.clone()].fill(None);
                    let raw = range(at, len as u32, 0);
                    let readable: &[&[u8]] = &[&header(DISCARD, 0), &raw];
                    (DISCARD, driver.add(queue, readable, &[1]))
                }
                16 | 17 => {
                    self.model[sectors.clone()].fill(Some(0));
                    let raw = range(at, len as u32, (byte & 1).into());
                    let readable: &[&[u8]] = &[&header(WRITE_ZEROES, 0), &raw];
                    (WRITE_ZEROES, driver.add(queue, readable, &[1]))
                }
                _ => (FLUSH, driver.add(queue, &[&header(FLUSH, 0)], &[1])),
            };
            asked.push(Asked {
                queue,
                head,
                kind,
                sectors,
            });
            at += len;
        }
        for queue in 0..QUEUES {
            self.guest.driver.kick(queue);
        }
        asked
    }

    fn take(&mut self, mut asked: Vec<Asked>) {
        while let Some(queue) = asked.first().map(|first| first.queue) {
            let used = self.guest.driver.wait_used(queue);
            let its = |asked: &Asked| (asked.queue, asked.head) == (queue, used.head);
            let request = asked.swap_remove(asked.iter().position(its).unwrap());
            let (status, data) = used.written.split_last().unwrap();
            assert_eq!(*status, OK);
            if request.kind == IN {
                self.check(request.sectors, data);
            }
        }
    }

    fn check(&self, sectors: Range<usize>, found: &[u8]) {
        for (sector, part) in sectors.zip(found.chunks(512)) {
            let byte = self.model[sector].unwrap_or(part[0]);
            assert!(part.iter().all(|b| *b == byte), "sector {sector} differs");
        }
    }

    /// Resets the device with requests in flight: each was done or was not.
    fn reset(&mut self, asked: Vec<Asked>) {
        self.random.pause(400);
        for request in asked {
            if !matches!(request.kind, IN | FLUSH) {
                self.model[request.sectors].fill(None);
            }
        }
        let _vcpus = self.vcpus.lock().unwrap();
        self.guest.driver.reset();
        self.guest.driver.start(u64::MAX);
    }

    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let asked = self.ask();
            match self.random.below(12) {
                0 => self.reset(asked),
                _ => self.take(asked),
            }
        }
        for first in (0..SECTORS).step_by(256) {
            let found = self.guest.read(first, 256 * 512).unwrap();
            self.check(first as usize..first as usize + 256, &found);
        }
    }
}

/// Ends the host, also when a request is not what it should be.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the host does until `done`.
fn host(
    device: &VirtioPci,
    control: &BlockControl,
    faults: &Faults,
    vcpus: &Mutex<()>,
    done: &AtomicBool,
) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    while !done.load(Ordering::Relaxed) {
        match random.below(8) {
            0 | 1 => {
                let _vcpus = vcpus.lock().unwrap();
                device.pause().unwrap();
                random.pause(500);
                device.resume().unwrap();
            }
            2 => control.set_limits(Limits {
                iops: 1 + random.below(3000),
                bps: 0,
            }),
            3 => control.set_limits(Limits {
                iops: 0,
                bps: 1 + random.below(1 << 20),
            }),
            4 => control.set_limits(Limits::default()),
            // It may fail as any other.
            5 => drop(control.disk().flush()),
            6 => {
                let fault = [Fault::Io, Fault::NoSpace][random.below(2) as usize];
                faults.arm(fault, random.below(20), random.below(2) == 0);
            }
            _ => {
                faults.heal();
                control.retry();
            }
        }
        random.pause(2000);
    }
}

fn test(disk: Disk, faults: &Faults) {
    let options = BlockOptions {
        queues: QUEUES,
        read_errors: ErrorPolicy::Stop,
        write_errors: ErrorPolicy::Stop,
        ..BlockOptions::default()
    };
    let guest = Guest::new(disk, options);
    let (device, control) = (Arc::clone(guest.driver.device()), guest.control.clone());
    let vcpus = Arc::new(Mutex::new(()));
    let mut test = Test {
        guest,
        random: Random(0x2545_f491_4f6c_dd1d),
        model: vec![Some(0); SECTORS as usize],
        vcpus: Arc::clone(&vcpus),
    };
    let long = std::env::var_os("STRATA_TEST_LONG").is_some();
    let time = Duration::from_millis(if long { 30_000 } else { 1_000 });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| host(&device, &control, faults, &vcpus, &done));
        let _end = End(&done);
        test.run(time);
    });
    assert_eq!(control.parked(), 0);
    faults.heal();
    control.disk().close().unwrap();
}

fn create_options(cluster_size: u64) -> CreateOptions {
    CreateOptions {
        size: SECTORS * 512,
        cluster_size,
        ..CreateOptions::default()
    }
}

fn file(path: &Path, format: Format) -> Disk {
    match format {
        Format::Raw => {
            let file = std::fs::File::create(path).unwrap();
            file.set_len(SECTORS * 512).unwrap();
        }
        _ => create_with(path, &create_options(65536)),
    }
    Disk::open(&DiskOptions::new(path, format)).unwrap()
}

/// A disk in memory, whose I/O fails when `faults` says so.
fn failing(format: Format, faults: &Arc<Faults>) -> Disk {
    let memory = MemoryStorage::new(vec![0; (SECTORS * 512) as usize]);
    let storage: Arc<dyn Storage> = Arc::new(FaultDisk::new(Arc::new(memory), faults));
    let node = match format {
        Format::Raw => Node::Raw(RawDisk::new(storage).unwrap()),
        _ => {
            create_options(4096).create(&storage).unwrap();
            let options = OpenOptions {
                writable: true,
                ..OpenOptions::default()
            };
            Node::Qcow2(Image::open(storage, options).unwrap())
        }
    };
    Disk::from_node(Arc::new(node), "failing", false).unwrap()
}

#[test]
fn requests_of_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("image");
    for format in [Format::Raw, Format::Qcow2] {
        test(file(&path, format), &Faults::default());
    }
    let mut check = std::process::Command::new("qemu-img");
    check.args(["check", "-q", "-f", "qcow2"]).arg(&path);
    assert!(check.status().unwrap().success());
}

#[test]
fn requests_of_disks_that_fail() {
    for format in [Format::Raw, Format::Qcow2] {
        let faults = Arc::new(Faults::default());
        test(failing(format, &faults), &faults);
    }
}
