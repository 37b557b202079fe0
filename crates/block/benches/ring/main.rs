//! From a driver's ring to the file: requests per second and CPU time of each, beside the same
//! requests by bare io_uring on the same file, in turns.
//!
//! `cargo bench -p strata-block --bench ring [-- [DIRECTORY | read | write | DEPTH | direct |
//! writeback | idle]...]`, where each word limits what is measured. CPU time is the process's (the
//! kernel's helper threads among it) less that of the thread which plays the driver. Every number
//! is the median of the rounds; the load of the machine is printed beside. Where qemu-storage-daemon
//! (Debian's qemu-system-common) is installed, the same driver does the same requests to its
//! vhost-user-blk export.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

mod bare;
mod cpu;
mod daemon;
mod guest;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strata_block::{Cache, Disk, DiskOptions, Format};
use strata_qcow2::chain::ChainOptions;
use strata_qcow2::{CreateOptions, Storage, chain};

const SIZE: u64 = 256 << 20;
/// Bytes of each request.
pub(crate) const LENGTH: u64 = 4096;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(400);

/// What one round did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sample {
    requests: u64,
    wall: Duration,
    cpu: Duration,
}

/// Random offsets that are the same for everybody.
pub(crate) struct Offsets(u64);

impl Offsets {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (SIZE / LENGTH) * LENGTH
    }
}

/// Somebody who does requests until the time is over.
pub(crate) trait Runner {
    fn run(&mut self, until: Instant) -> u64;

    /// CPU time of who serves the requests.
    fn cpu(&self) -> Duration;
}

fn round(runner: &mut dyn Runner) -> Sample {
    let (start, cpu) = (Instant::now(), runner.cpu());
    let requests = runner.run(start + ROUND);
    Sample {
        requests,
        wall: start.elapsed(),
        cpu: runner.cpu().saturating_sub(cpu),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn raw(path: &Path) {
    let data: Vec<u8> = (0..SIZE).map(|at| (at >> 9) as u8 | 1).collect();
    std::fs::write(path, data).unwrap();
    std::fs::File::open(path).unwrap().sync_all().unwrap();
}

fn qcow2(path: &Path) {
    use strata_qcow2::storage::{FileOptions, FileStorage};
    let options = FileOptions {
        write: true,
        create: true,
        direct: false,
    };
    let file: std::sync::Arc<dyn Storage> =
        std::sync::Arc::new(FileStorage::open(path, options).unwrap());
    let create = CreateOptions {
        size: SIZE,
        ..CreateOptions::default()
    };
    create.create(&file).unwrap();
    drop(file);
    let options = ChainOptions {
        writable: true,
        ..ChainOptions::default()
    };
    let node = chain::open(path, &options).unwrap();
    let data = vec![1; 1 << 20];
    for at in (0..SIZE).step_by(1 << 20) {
        node.write_at(&data, at).unwrap();
    }
    node.as_qcow2().unwrap().close().unwrap();
}

fn open(path: &Path, format: Format, cache: Cache) -> Disk {
    Disk::open(&DiskOptions {
        cache,
        ..DiskOptions::new(path, format)
    })
    .unwrap()
}

fn measure(directory: &Path, cache: Cache, write: bool, depth: u16) {
    let (raw_path, image) = (directory.join("raw"), directory.join("qcow2"));
    let mut bare = bare::Bare::new(&raw_path, cache == Cache::Direct, write, depth);
    let device = |path: &Path, format| {
        guest::Guest::new(guest::device(open(path, format, cache)), write, depth)
    };
    let mut raw = device(&raw_path, Format::Raw);
    let mut image = device(&image, Format::Qcow2);
    // It locks nothing: its image is a copy, which nobody else writes.
    let copy = directory.join("qemu");
    let daemon = |path: &Path, format| {
        let daemon = daemon::Daemon::start(path, format, cache)?;
        Some(guest::Guest::new(daemon, write, depth))
    };
    let mut qemu_raw = daemon(&raw_path, Format::Raw);
    let mut qemu_image = daemon(&copy, Format::Qcow2);
    let mut runners: Vec<(&str, &mut dyn Runner, Vec<Sample>)> = vec![
        ("bare io_uring", &mut bare, Vec::new()),
        ("raw device", &mut raw, Vec::new()),
        ("qcow2 device", &mut image, Vec::new()),
    ];
    if let (Some(raw), Some(image)) = (&mut qemu_raw, &mut qemu_image) {
        runners.push(("qemu's raw", raw, Vec::new()));
        runners.push(("qemu's qcow2", image, Vec::new()));
    }
    for number in 0..=ROUNDS {
        for (_, runner, samples) in &mut runners {
            let sample = round(*runner);
            // The first round only warms up.
            if number > 0 {
                samples.push(sample);
            }
        }
    }
    let kind = if write { "write" } else { "read" };
    let of = |samples: &[Sample]| {
        let iops = samples
            .iter()
            .map(|s| s.requests as f64 / s.wall.as_secs_f64());
        let cpu = samples
            .iter()
            .map(|s| s.cpu.as_secs_f64() * 1e6 / s.requests as f64);
        (median(iops.collect()), median(cpu.collect()))
    };
    let (bare_iops, bare_cpu) = of(&runners[0].2);
    for (name, _, samples) in &runners {
        let (iops, cpu) = of(samples);
        println!(
            "{kind:5} depth {depth:2}  {name:13}  {iops:8.0} IOPS ({:5.1} %)  {cpu:6.2} us CPU ({:+.2})",
            iops * 100.0 / bare_iops,
            cpu - bare_cpu,
        );
    }
}

/// What a device that was started and does nothing adds to this process's memory, per device. The
/// mock driver in front of it is in the number, the kernel's side of threads and rings is not.
fn idle(directory: &Path) {
    const DEVICES: u64 = 32;
    let image = directory.join("qcow2");
    for (name, format) in [("raw", Format::Raw), ("qcow2", Format::Qcow2)] {
        let path = if format == Format::Raw {
            directory.join("raw")
        } else {
            image.clone()
        };
        let start = || {
            let disk = Disk::open(&DiskOptions {
                read_only: true,
                ..DiskOptions::new(&path, format)
            });
            guest::Guest::new(guest::device(disk.unwrap()), false, 1)
        };
        let _first = start();
        let before = cpu::memory();
        let devices: Vec<_> = (0..DEVICES).map(|_| start()).collect();
        let each = (cpu::memory() - before) / DEVICES;
        println!("idle {name} device: {each} KiB of memory");
        drop(devices);
    }
}

/// The values of `all` whose names were given, or all if none was.
fn chosen<T: Copy>(words: &[String], all: &[(&str, T)]) -> Vec<T> {
    let named = |name: &str| words.iter().any(|word| word == name);
    let any = all.iter().any(|(name, _)| named(name));
    let kept = all.iter().filter(|(name, _)| !any || named(name));
    kept.map(|(_, value)| *value).collect()
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let given = words.iter().filter(|word| word.starts_with('/'));
    let mut directories: Vec<PathBuf> = given.map(PathBuf::from).collect();
    if directories.is_empty() {
        directories = vec![env!("CARGO_TARGET_TMPDIR").into(), "/dev/shm".into()];
    }
    let caches = [("direct", Cache::Direct), ("writeback", Cache::Writeback)];
    if std::process::Command::new("qemu-storage-daemon")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("no qemu-storage-daemon: it is left out");
    }
    for directory in directories {
        let scratch = tempfile::tempdir_in(&directory).unwrap();
        raw(&scratch.path().join("raw"));
        qcow2(&scratch.path().join("qcow2"));
        std::fs::copy(scratch.path().join("qcow2"), scratch.path().join("qemu")).unwrap();
        idle(scratch.path());
        if words.iter().any(|word| word == "idle") {
            continue;
        }
        for cache in chosen(&words, &caches) {
            println!(
                "\n{}, cache {cache:?}, random {LENGTH} byte requests, load {}",
                directory.display(),
                cpu::load()
            );
            for write in chosen(&words, &[("read", false), ("write", true)]) {
                for depth in chosen(&words, &[("1", 1), ("32", 32)]) {
                    measure(scratch.path(), cache, write, depth);
                }
            }
        }
    }
}
