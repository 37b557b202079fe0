//! The device, driven by a guest.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::guest::{
    DISCARD, F_DISCARD, F_FLUSH, F_RO, GET_ID, Guest, IN, IOERR, OK, OUT, UNSUPP, WRITE_ZEROES,
    header, range,
};
use common::{create, overlay_of};
use strata_block::{BlockOptions, Cache, Disk, DiskOptions, Format, Limits};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{Node, RawDisk};

const MIB: u64 = 1 << 20;

fn raw(path: &Path, size: u64) -> Disk {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
    Disk::open(&DiskOptions::new(path, Format::Raw)).unwrap()
}

fn qcow2(path: &Path, size: u64) -> Disk {
    create(path, size);
    Disk::open(&DiskOptions::new(path, Format::Qcow2)).unwrap()
}

/// A chain of three: raw below, two images above.
fn chain(dir: &Path, size: u64) -> Disk {
    let bytes: Vec<u8> = (0..size).map(|at| (at / 512) as u8).collect();
    std::fs::write(dir.join("base"), bytes).unwrap();
    overlay_of(&dir.join("middle"), size, "base", "raw");
    overlay_of(&dir.join("top"), size, "middle", "qcow2");
    Disk::open(&DiskOptions {
        backing: true,
        ..DiskOptions::new(dir.join("top"), Format::Qcow2)
    })
    .unwrap()
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

/// Writes and reads back what crosses clusters, on every shape.
fn exercise(guest: &mut Guest, name: &str) {
    for (seed, sector, len) in [
        (1, 0, 512),
        (2, 127, 1024),
        (3, 100, 200 << 10),
        (4, 2046, 1024),
    ] {
        let data = pattern(seed, len);
        assert_eq!(guest.write(sector, &data), OK, "{name}");
        assert_eq!(guest.read(sector, len as u32), Ok(data.clone()), "{name}");
        // Allocated by now: in place.
        let data = pattern(seed + 10, len);
        assert_eq!(guest.write(sector, &data), OK, "{name}");
        assert_eq!(guest.flush(), OK, "{name}");
        assert_eq!(guest.read(sector, len as u32), Ok(data), "{name}");
    }
}

#[test]
fn every_shape_reads_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let shapes = [
        ("raw", raw(&path("raw"), MIB)),
        ("qcow2", qcow2(&path("qcow2"), MIB)),
        ("chain", chain(dir.path(), MIB)),
    ];
    for (name, disk) in shapes {
        let mut guest = Guest::new(disk, BlockOptions::default());
        exercise(&mut guest, name);
        let stats = guest.control.stats();
        assert_eq!(
            (stats.read.requests, stats.write.requests),
            (8, 8),
            "{name}"
        );
        assert_eq!(stats.read.bytes, stats.write.bytes, "{name}");
        assert_eq!(stats.flush.requests, 4, "{name}");
        // Allocation and the flushes of an image are slow, reads and overwrites are not.
        assert_eq!(stats.read.slow, 0, "{name}");
        assert_eq!(stats.write.slow == 0, name == "raw", "{name}");
        assert!(stats.write.slow <= 4, "{name}");
        assert!(guest.control.disk().close().is_ok());
    }
    let whole = std::fs::read(path("raw")).unwrap();
    assert_eq!(whole[..512], pattern(11, 512)[..]);
    let check = std::process::Command::new("qemu-img")
        .args(["check", "-q", "-U"])
        .arg(path("top"))
        .status();
    assert!(check.unwrap().success());
}

#[test]
fn direct_takes_aligned_and_other_buffers() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let path = dir.path().join("image");
        match format {
            Format::Raw => drop(raw(&path, MIB)),
            _ => drop(qcow2(&path, MIB)),
        }
        let disk = Disk::open(&DiskOptions {
            cache: Cache::Direct,
            ..DiskOptions::new(&path, format)
        })
        .unwrap();
        let block = disk.alignment();
        let mut guest = Guest::new(disk, BlockOptions::default());
        // The mock driver's buffers follow the 16 bytes of the header: they are not aligned.
        let data = pattern(5, 64 << 10);
        assert_eq!(guest.write(block / 512, &data), OK);
        assert_eq!(guest.read(block / 512, 64 << 10), Ok(data));
        assert!(guest.control.stats().write.slow > 0);
        if block > 512 {
            assert_eq!(guest.write(1, &[0; 512]), IOERR);
        }
    }
}

#[test]
fn configuration_says_what_the_disk_is() {
    let dir = tempfile::tempdir().unwrap();
    let disk = qcow2(&dir.path().join("a"), 8 * MIB);
    let options = BlockOptions {
        queues: 3,
        block_size: Some(4096),
        serial: "strata-serial".into(),
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(disk, options);
    let driver = &guest.driver;
    assert_eq!(driver.read_config::<u64>(0), 16384);
    assert_eq!(driver.read_config::<u32>(12), 254);
    assert_eq!(driver.read_config::<u32>(20), 4096);
    assert_eq!(driver.read_config::<u8>(24), 0);
    assert_eq!(driver.read_config::<u32>(28), 16);
    assert_eq!(driver.read_config::<u8>(32), 1);
    assert_eq!(driver.read_config::<u16>(34), 3);
    assert_eq!(driver.read_config::<u32>(44), 128);
    assert_eq!(driver.read_config::<u8>(56), 1);
    assert!(driver.offered() & F_DISCARD != 0 && driver.offered() & F_RO == 0);
    assert_eq!(driver.read_config::<u64>(1000), 0);

    let used = guest.driver.request(2, &[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!(&used.written[..13], b"strata-serial");
    assert_eq!(used.written[13..], [0; 8]);
    assert_eq!(used.len, 21);
    // Too short, and longer than it is: what is written is never said to be more than it is.
    let used = guest.driver.request(0, &[&header(GET_ID, 0)], &[5, 1]);
    assert_eq!((used.written[5], used.len), (IOERR, 0));
    let used = guest.driver.request(0, &[&header(GET_ID, 0)], &[40, 1]);
    assert_eq!((used.written[40], used.len), (OK, 20));
    assert_eq!(&used.written[..13], b"strata-serial");
}

#[test]
fn a_new_size_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(qcow2(&dir.path().join("a"), MIB), BlockOptions::default());
    assert_eq!(guest.read(2048, 512), Err(IOERR));
    let generation = guest.driver.generation();
    guest.control.resize(2 * MIB).unwrap();
    assert!(guest.driver.wait_interrupt(0, Duration::from_secs(5)));
    assert_ne!(guest.driver.generation(), generation);
    assert_eq!(guest.driver.read_config::<u64>(0), 4096);
    assert_eq!(guest.read(2048, 512), Ok(vec![0; 512]));
}

#[test]
fn a_size_is_a_whole_number_of_the_device_s_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlockOptions {
        block_size: Some(4096),
        ..BlockOptions::default()
    };
    let guest = Guest::new(raw(&dir.path().join("a"), MIB), options);
    for size in [MIB + 512, 2 * MIB - 512] {
        let refused = guest.control.resize(size).unwrap_err().to_string();
        assert!(refused.contains("blocks of 4096"), "{refused}");
    }
    assert_eq!(guest.driver.read_config::<u64>(0), 2048);
    guest.control.resize(MIB + 4096).unwrap();
    assert_eq!(guest.driver.read_config::<u64>(0), 2056);
}

#[test]
fn what_can_not_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(raw(&dir.path().join("a"), MIB), BlockOptions::default());
    assert_eq!(guest.write(2048, &[0; 512]), IOERR);
    assert_eq!(guest.write(0, &[0; 100]), IOERR);
    assert_eq!(guest.read(u64::MAX, 512), Err(IOERR));
    assert_eq!(guest.request(77, 0, &[]), UNSUPP);
    assert_eq!(guest.request(DISCARD, 0, &[1; 15]), IOERR);
    assert_eq!(guest.request(DISCARD, 0, &range(0, 1, 1)), UNSUPP);
    assert_eq!(guest.request(WRITE_ZEROES, 0, &range(2048, 1, 0)), IOERR);
    // None of it is the disk's fault.
    let stats = guest.control.stats();
    assert_eq!((stats.read.failed, stats.write.failed), (0, 0));
    assert_eq!(guest.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn requests_may_be_cut_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(qcow2(&dir.path().join("a"), MIB), BlockOptions::default());
    let data = pattern(9, 2048);
    for _ in 0..2 {
        // Header and data in one buffer, and the header in three.
        let joined = [&header(OUT, 3)[..], &data[..]].concat();
        let used = guest.driver.request(0, &[&joined], &[1]);
        assert_eq!(used.written, [OK]);
        let head = header(IN, 3);
        let used = guest
            .driver
            .request(0, &[&head[..1], &head[1..9], &head[9..]], &[7, 2000, 42]);
        assert_eq!(used.written[..2048], data[..]);
        assert_eq!((used.written[2048], used.len), (OK, 2049));
    }
}

#[test]
fn zeroes_and_discards_reach_the_host() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let path = dir.path().join(format!("{format:?}"));
        let disk = match format {
            Format::Raw => raw(&path, MIB),
            _ => qcow2(&path, MIB),
        };
        let mut guest = Guest::new(disk, BlockOptions::default());
        let ones = vec![1; 1 << 20];
        assert_eq!(guest.write(0, &ones), OK);
        assert_eq!(guest.request(WRITE_ZEROES, 0, &range(8, 100, 0)), OK);
        assert_eq!(guest.read(8, 51200), Ok(vec![0; 51200]));
        assert_eq!(guest.read(0, 4096), Ok(vec![1; 4096]));
        assert_eq!(guest.read(108, 4096), Ok(vec![1; 4096]));
        let ranges = [range(512, 512, 0), range(1024, 1024, 0)].concat();
        assert_eq!(guest.request(DISCARD, 0, &ranges), OK);
        assert_eq!(guest.flush(), OK);
        let left = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(left < MIB / 2, "{format:?}: {left}");
        let stats = guest.control.stats();
        assert_eq!(
            (stats.discard.requests, stats.discard.bytes),
            (1, 1536 * 512)
        );
        assert_eq!(
            (stats.write_zeroes.requests, stats.write_zeroes.bytes),
            (1, 100 * 512)
        );
    }
}

#[test]
fn a_range_of_no_sectors_is_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let path = dir.path().join(format!("{format:?}"));
        let disk = match format {
            Format::Raw => raw(&path, MIB),
            _ => qcow2(&path, MIB),
        };
        let mut guest = Guest::new(disk, BlockOptions::default());
        assert_eq!(guest.write(0, &[1; 4096]), OK);
        for kind in [DISCARD, WRITE_ZEROES] {
            assert_eq!(guest.request(kind, 0, &range(0, 0, 0)), OK, "{format:?}");
            let ranges = [range(2048, 0, 0), range(2, 6, 0)].concat();
            assert_eq!(guest.request(kind, 0, &ranges), OK, "{format:?}");
            assert_eq!(guest.read(0, 512), Ok(vec![1; 512]), "{format:?}");
        }
        assert_eq!(guest.read(2, 3072), Ok(vec![0; 3072]), "{format:?}");
        let stats = guest.control.stats();
        assert_eq!((stats.discard.failed, stats.write_zeroes.failed), (0, 0));
    }
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    drop(raw(&path, MIB));
    let disk = Disk::open(&DiskOptions {
        read_only: true,
        ..DiskOptions::new(&path, Format::Raw)
    })
    .unwrap();
    let mut guest = Guest::new(disk, BlockOptions::default());
    assert!(guest.driver.offered() & F_RO != 0 && guest.driver.offered() & F_DISCARD == 0);
    assert_eq!(guest.write(0, &[1; 512]), IOERR);
    assert_eq!(guest.request(WRITE_ZEROES, 0, &range(0, 1, 0)), IOERR);
    assert_eq!(guest.flush(), OK);
    assert_eq!(guest.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn without_flushes_every_write_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let disk = qcow2(&path, MIB);
    let mut guest = Guest::with_features(disk, BlockOptions::default(), !F_FLUSH);
    assert_eq!(guest.write(5, &pattern(1, 512)), OK);
    // The metadata is in the file: another reader, which takes no locks, finds the data.
    let output = std::process::Command::new("qemu-io")
        .args(["-r", "-U", "-f", "qcow2", "-c", "read -v 2560 4"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("01 20 3f 5e"), "{said}");
}

#[test]
fn the_driver_turns_its_cache_off_and_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut guest = Guest::new(qcow2(&path, 8 * MIB), BlockOptions::default());
    let flushed = |guest: &Guest| guest.control.stats().write.slow;
    guest.driver.write_config(32, 0_u8);
    assert_eq!(guest.driver.read_config::<u8>(32), 0);
    assert_eq!(guest.write(0, &[1; 512]), OK);
    let before = flushed(&guest);
    assert_eq!(guest.write(0, &[2; 512]), OK);
    assert_eq!(flushed(&guest), before + 1, "an overwrite and its flush");
    guest.driver.write_config(32, 1_u8);
    assert_eq!(guest.write(0, &[3; 512]), OK);
    assert_eq!(flushed(&guest), before + 1);
}

#[test]
fn many_requests_on_many_queues() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlockOptions {
        queues: 4,
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(chain(dir.path(), MIB), options);
    for round in 0..8_u8 {
        for queue in 0..4 {
            for index in 0..32_u64 {
                let sector = u64::from(queue) * 512 + index * 16;
                let data = vec![round ^ index as u8; 8192];
                guest
                    .driver
                    .add(queue, &[&header(OUT, sector), &data], &[1]);
            }
            guest.driver.kick(queue);
        }
        for queue in 0..4 {
            for _ in 0..32 {
                assert_eq!(guest.driver.wait_used(queue).written, [OK]);
            }
        }
        for index in 0..128_u64 {
            let sector = index * 16;
            let expected = round ^ (index % 32) as u8;
            assert_eq!(guest.read(sector, 8192), Ok(vec![expected; 8192]));
        }
    }
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(qcow2(&dir.path().join("a"), MIB), BlockOptions::default());
    for round in 0..20 {
        for index in 0..16 {
            guest
                .driver
                .add(0, &[&header(OUT, index * 100), &[round; 4096]], &[1]);
            guest.driver.add(0, &[&header(IN, index * 100)], &[4096, 1]);
        }
        guest.driver.kick(0);
        guest.driver.reset();
        // Nothing is written into memory that the driver has back.
        let memory = guest.driver.memory().clone();
        let fill = vec![0x55; 4 << 20];
        use vm_memory::Bytes;
        memory
            .write_slice(&fill, vm_memory::GuestAddress(4 << 20))
            .unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let mut now = vec![0; 4 << 20];
        memory
            .read_slice(&mut now, vm_memory::GuestAddress(4 << 20))
            .unwrap();
        assert!(now == fill);
        guest.driver.start(u64::MAX);
        assert_eq!(guest.flush(), OK);
    }
}

#[test]
fn a_pause_loses_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlockOptions {
        limits: Limits { iops: 500, bps: 0 },
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(qcow2(&dir.path().join("a"), MIB), options);
    for index in 0..80 {
        guest
            .driver
            .add(0, &[&header(OUT, index), &[index as u8; 512]], &[1]);
    }
    guest.driver.kick(0);
    for _ in 0..5 {
        guest.driver.device().pause().unwrap();
        guest.driver.device().resume().unwrap();
    }
    for _ in 0..80 {
        assert_eq!(guest.driver.wait_used(0).written, [OK]);
    }
    for index in 0..80 {
        assert_eq!(guest.read(index, 512), Ok(vec![index as u8; 512]));
    }
}

#[test]
fn a_disk_without_files_works_as_well() {
    let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
    let node = std::sync::Arc::new(Node::Raw(RawDisk::new(storage).unwrap()));
    let disk = Disk::from_node(node, "memory", false).unwrap();
    let mut guest = Guest::new(disk, BlockOptions::default());
    assert_eq!(guest.read(4, 1024), Ok(vec![7; 1024]));
    exercise(&mut guest, "memory");
}

#[test]
fn what_lies_past_the_end_of_a_file_is_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, [7; 5000]).unwrap();
    let disk = Disk::open(&DiskOptions::new(&path, Format::Raw)).unwrap();
    let mut guest = Guest::new(disk, BlockOptions::default());
    // In one buffer and in several, of which the kernel fills some in part.
    for lens in [
        &[5120][..],
        &[4000, 1120],
        &[1000, 4000, 60, 60],
        &[5000, 120],
    ] {
        let writable = [lens, &[1]].concat();
        let used = guest.driver.request(0, &[&header(IN, 0)], &writable);
        let expected = [&[7; 5000][..], &[0; 120], &[OK]].concat();
        assert!(used.written == expected, "{lens:?}");
    }
}

#[test]
fn what_the_kernel_writes_is_in_the_dirty_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(chain(dir.path(), MIB), BlockOptions::default());
    // Fast, of zeroes, and slow.
    assert_eq!(guest.request(WRITE_ZEROES, 0, &range(0, 256, 1)), OK);
    for sector in [512, 0] {
        guest.driver.ram().start_dirty().unwrap();
        let head = guest.driver.add(0, &[&header(IN, sector)], &[64 << 10, 1]);
        // The driver's own writes are in the log too: only what comes later counts.
        guest.driver.ram().take_dirty().unwrap();
        guest.driver.kick(0);
        assert_eq!(guest.driver.wait_used(0).head, head);
        let log = guest.driver.ram().take_dirty().unwrap();
        assert!(log.pages() >= 16, "sector {sector}: {}", log.pages());
        guest.driver.ram().stop_dirty();
    }
}

#[test]
fn options_that_can_not_be_are_refused() {
    use strata_block::BlockDevice;
    let dir = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(raw(&dir.path().join("a"), MIB + 512));
    let base = BlockOptions::default;
    let cases = [
        (
            BlockOptions {
                queues: 0,
                ..base()
            },
            "queues",
        ),
        (
            BlockOptions {
                queues: 65,
                ..base()
            },
            "queues",
        ),
        (
            BlockOptions {
                queue_size: 100,
                ..base()
            },
            "power of two",
        ),
        (
            BlockOptions {
                queue_size: 2,
                ..base()
            },
            "power of two",
        ),
        (
            BlockOptions {
                serial: "x".repeat(21),
                ..base()
            },
            "20 bytes",
        ),
        (
            BlockOptions {
                block_size: Some(1000),
                ..base()
            },
            "power of two",
        ),
        (
            BlockOptions {
                block_size: Some(4096),
                ..base()
            },
            "resize",
        ),
    ];
    for (options, word) in cases {
        let error = BlockDevice::new(disk.clone(), options).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
