//! Random requests through the ring, on every shape of disk, against a plain model.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::guest::{DISCARD, Guest, IN, OK, OUT, WRITE_ZEROES, header, range};
use common::{create_with, overlay_of};
use proptest::prelude::*;
use strata_block::{BlockOptions, Cache, Disk, DiskOptions, Format};
use strata_qcow2::CreateOptions;

const SIZE: u64 = 2 << 20;
const SECTORS: u64 = SIZE / 512;

#[derive(Debug, Clone)]
enum Step {
    Write {
        sector: u64,
        sectors: u64,
        seed: u8,
    },
    Read {
        sector: u64,
        sectors: u64,
    },
    Zeroes {
        sector: u64,
        sectors: u64,
        unmap: bool,
    },
    Discard {
        sector: u64,
        sectors: u64,
    },
    Flush,
    /// Makes the next requests available together: they do not overlap.
    Batch {
        first: u64,
        each: u64,
        seed: u8,
    },
    /// Resets the device and starts it again.
    Reset,
}

fn place() -> impl Strategy<Value = (u64, u64)> {
    let lengths = prop_oneof![4 => 1..16_u64, 2 => 1..300_u64, 1 => Just(128), 1 => Just(1024)];
    (0..SECTORS, lengths).prop_map(|(sector, sectors)| (sector, sectors.min(SECTORS - sector)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (place(), any::<u8>())
            .prop_map(|((sector, sectors), seed)| Step::Write { sector, sectors, seed }),
        6 => place().prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        1 => (place(), any::<bool>())
            .prop_map(|((sector, sectors), unmap)| Step::Zeroes { sector, sectors, unmap }),
        1 => place().prop_map(|(sector, sectors)| Step::Discard { sector, sectors }),
        1 => Just(Step::Flush),
        3 => (0..SECTORS / 2, 1..60_u64, any::<u8>())
            .prop_map(|(first, each, seed)| Step::Batch { first, each, seed }),
        1 => Just(Step::Reset),
    ]
}

fn pattern(seed: u8, sectors: u64) -> Vec<u8> {
    (0..sectors * 512).map(|at| (at / 7) as u8 ^ seed).collect()
}

/// The disk as its owner remembers it; a sector that was discarded may be anything.
struct Model {
    bytes: Vec<u8>,
    unknown: Vec<bool>,
}

impl Model {
    fn set(&mut self, sector: u64, data: &[u8]) {
        let at = (sector * 512) as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        let (first, count) = (sector as usize, data.len() / 512);
        self.unknown[first..first + count].fill(false);
    }

    fn check(&self, sector: u64, found: &[u8]) {
        for (number, part) in found.chunks(512).enumerate() {
            let sector = sector as usize + number;
            if !self.unknown[sector] {
                let at = sector * 512;
                assert!(part == &self.bytes[at..at + 512], "sector {sector} differs");
            }
        }
    }
}

fn run(guest: &mut Guest, model: &mut Model, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Write {
                sector,
                sectors,
                seed,
            } => {
                let data = pattern(seed, sectors);
                assert_eq!(guest.write(sector, &data), OK);
                model.set(sector, &data);
            }
            Step::Read { sector, sectors } => {
                let found = guest.read(sector, sectors as u32 * 512).unwrap();
                model.check(sector, &found);
            }
            Step::Zeroes {
                sector,
                sectors,
                unmap,
            } => {
                let raw = range(sector, sectors as u32, unmap.into());
                assert_eq!(guest.request(WRITE_ZEROES, 0, &raw), OK);
                model.set(sector, &vec![0; sectors as usize * 512]);
            }
            Step::Discard { sector, sectors } => {
                let raw = range(sector, sectors as u32, 0);
                assert_eq!(guest.request(DISCARD, 0, &raw), OK);
                model.unknown[sector as usize..(sector + sectors) as usize].fill(true);
            }
            Step::Flush => assert_eq!(guest.flush(), OK),
            Step::Batch { first, each, seed } => batch(guest, model, first, each, seed),
            Step::Reset => {
                guest.driver.reset();
                guest.driver.start(u64::MAX);
            }
        }
    }
    let found = guest.read(0, SIZE as u32).unwrap();
    model.check(0, &found);
}

fn batch(guest: &mut Guest, model: &mut Model, first: u64, each: u64, seed: u8) {
    let mut reads = Vec::new();
    for number in 0..16 {
        let sector = first + number * each;
        if sector + each > SECTORS {
            break;
        }
        if number % 3 == 0 {
            let head = guest
                .driver
                .add(0, &[&header(IN, sector)], &[each as u32 * 512, 1]);
            reads.push((head, sector));
        } else {
            let data = pattern(seed ^ number as u8, each);
            guest.driver.add(0, &[&header(OUT, sector), &data], &[1]);
            model.set(sector, &data);
        }
    }
    guest.driver.kick(0);
    let count = guest.driver.queue(0).in_flight();
    for _ in 0..count {
        let used = guest.driver.wait_used(0);
        let (status, data) = used.written.split_last().unwrap();
        assert_eq!(*status, OK);
        if let Some((_, sector)) = reads.iter().find(|(head, _)| *head == used.head) {
            model.check(*sector, data);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Raw,
    Qcow2 {
        cluster: u64,
        extended: bool,
    },
    /// Three images: raw, compressed in places, and a top one.
    Chain,
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Raw),
        Just(Shape::Qcow2 {
            cluster: 65536,
            extended: false
        }),
        Just(Shape::Qcow2 {
            cluster: 512,
            extended: false
        }),
        Just(Shape::Qcow2 {
            cluster: 16384,
            extended: true
        }),
        Just(Shape::Chain),
    ]
}

fn base_byte(at: u64) -> u8 {
    (at / 512 * 5) as u8
}

fn make(dir: &Path, shape: Shape) -> (DiskOptions, Model) {
    let mut model = Model {
        bytes: vec![0; SIZE as usize],
        unknown: vec![false; SECTORS as usize],
    };
    let options = match shape {
        Shape::Raw => {
            let path = dir.join("raw");
            std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
            DiskOptions::new(path, Format::Raw)
        }
        Shape::Qcow2 { cluster, extended } => {
            let path = dir.join("image");
            let options = CreateOptions {
                size: SIZE,
                cluster_size: cluster,
                extended_l2: extended,
                ..CreateOptions::default()
            };
            create_with(&path, &options);
            DiskOptions::new(path, Format::Qcow2)
        }
        Shape::Chain => {
            // The base is smaller than the disk.
            let base: Vec<u8> = (0..SIZE / 2 + 1536).map(base_byte).collect();
            model.bytes[..base.len()].copy_from_slice(&base);
            std::fs::write(dir.join("base"), &base).unwrap();
            overlay_of(&dir.join("middle"), SIZE, "base", "raw");
            let script = [
                "-f",
                "qcow2",
                "-c",
                "write -c -P 77 192k 64k",
                "-c",
                "write -P 78 960k 3k",
            ];
            let status = std::process::Command::new("qemu-io")
                .args(script)
                .arg(dir.join("middle"))
                .stdout(std::process::Stdio::null())
                .status();
            assert!(status.unwrap().success());
            model.bytes[192 << 10..256 << 10].fill(77);
            model.bytes[960 << 10..963 << 10].fill(78);
            overlay_of(&dir.join("top"), SIZE, "middle", "qcow2");
            DiskOptions {
                backing: true,
                ..DiskOptions::new(dir.join("top"), Format::Qcow2)
            }
        }
    };
    (options, model)
}

fn cases() -> u32 {
    if std::env::var_os("STRATA_TEST_LONG").is_some() {
        400
    } else {
        24
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_reads_what_was_written(
        shape in shape(),
        cache in prop_oneof![Just(Cache::Writeback), Just(Cache::Direct), Just(Cache::Unsafe)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (options, mut model) = make(dir.path(), shape);
        let options = DiskOptions { cache, ..options };
        let disk = Disk::open(&options).unwrap();
        // A host whose disks have larger sectors refuses what the steps ask for.
        prop_assume!(disk.alignment() == 512);
        let mut guest = Guest::new(disk, BlockOptions::default());
        run(&mut guest, &mut model, &steps);
        guest.control.disk().close().unwrap();
        drop(guest);
        if options.format == Format::Qcow2 {
            let check = std::process::Command::new("qemu-img")
                .args(["check", "-q"])
                .arg(&options.path)
                .status();
            prop_assert!(check.unwrap().success());
        }
        // What another reader sees is the same.
        let mut guest = Guest::new(Disk::open(&options).unwrap(), BlockOptions::default());
        let found = guest.read(0, SIZE as u32).unwrap();
        model.check(0, &found);
    }
}
