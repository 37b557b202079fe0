//! Rate limits, and what waits for them.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::guest::{DISCARD, Guest, IOERR, OK, OUT, WRITE_ZEROES, header, range};
use strata_block::{BlockOptions, Disk, DiskOptions, Format, Limits};

const MIB: u64 = 1 << 20;

fn raw(path: &Path, size: u64) -> Disk {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
    Disk::open(&DiskOptions::new(path, Format::Raw)).unwrap()
}

#[test]
fn zeroes_without_data_are_limited_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        iops: 0,
        bps: 4 * MIB,
    };
    let options = BlockOptions {
        limits,
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(raw(&dir.path().join("a"), 16 * MIB), options);
    let start = Instant::now();
    for flags in [0, 1, 0] {
        let whole = range(0, 2048, flags);
        assert_eq!(guest.request(WRITE_ZEROES, 0, &whole), OK);
    }
    // Two of three mebibytes, but for what may pass at once.
    assert!(start.elapsed() >= Duration::from_millis(300));
    // What is discarded has no such price.
    guest.control.set_limits(Limits { iops: 0, bps: 1 });
    assert_eq!(guest.request(DISCARD, 0, &range(0, 2048, 0)), OK);
    assert_eq!(guest.request(DISCARD, 0, &range(0, 2048, 0)), OK);
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlockOptions {
        limits: Limits { iops: 200, bps: 0 },
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(raw(&dir.path().join("a"), MIB), options);
    let start = Instant::now();
    for _ in 0..80 {
        assert!(guest.read(0, 512).is_ok());
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(250), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");

    guest.control.set_limits(Limits { iops: 0, bps: MIB });
    let start = Instant::now();
    for _ in 0..8 {
        assert!(guest.read(0, 64 << 10).is_ok());
    }
    assert!(start.elapsed() > Duration::from_millis(250));
    guest.control.set_limits(Limits::default());
    assert_eq!(guest.control.limits(), Limits::default());
}

#[test]
fn other_limits_let_go_what_the_old_ones_hold() {
    let dir = tempfile::tempdir().unwrap();
    let options = BlockOptions {
        limits: Limits { iops: 0, bps: 1 },
        ..BlockOptions::default()
    };
    let mut guest = Guest::new(raw(&dir.path().join("a"), MIB), options);
    // The price of this one is paid by the next.
    assert_eq!(guest.write(0, &[1; 512]), OK);
    let mut flush = [0; 16];
    flush[0] = 4;
    let mut write = [0; 16];
    write[0] = 1;
    guest.driver.add(0, &[&write, &[2; 512]], &[1]);
    guest.driver.add(0, &[&flush], &[1]);
    guest.driver.kick(0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.driver.take_used(0).is_none(), "it waits");
    guest.control.set_limits(Limits { iops: 1000, bps: 0 });
    assert_eq!(guest.driver.wait_used(0).written, [OK]);
    assert_eq!(guest.driver.wait_used(0).written, [OK]);
}

#[test]
fn what_waits_while_the_disk_becomes_smaller_is_outside_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    for kind in [OUT, WRITE_ZEROES] {
        let options = BlockOptions {
            limits: Limits { iops: 0, bps: 1 },
            ..BlockOptions::default()
        };
        let mut guest = Guest::new(raw(&path, MIB), options);
        assert_eq!(guest.write(0, &[1; 512]), OK);
        let data = match kind {
            OUT => vec![2; 512],
            _ => range(2047, 1, 0),
        };
        guest.driver.add(0, &[&header(kind, 2047), &data], &[1]);
        guest.driver.kick(0);
        std::thread::sleep(Duration::from_millis(50));
        guest.control.resize(MIB / 2).unwrap();
        guest.control.set_limits(Limits::default());
        assert_eq!(guest.driver.wait_used(0).written, [IOERR]);
        assert_eq!(path.metadata().unwrap().len(), MIB / 2);
    }
}
