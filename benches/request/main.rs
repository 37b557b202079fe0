//! What a disk request costs a guest from its kick to its completion, on this host's KVM.
//!
//! The payload guest polls the used ring, so that neither interrupt nor halt is in the time. It runs
//! beside the device in one process: the mock driver negotiates, and its memory is mapped into the
//! guest. Medians of [`BATCHES`] batches of one size; the load of the machine is printed beside.

#![allow(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a bench that cannot be set up has nothing to say; the guest's memory is mapped by hand"
)]

mod guest;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_block::{BlockDevice, BlockOptions, Disk, DiskOptions, Format};
use strata_virtio::test_utils::{MockDriver, flags};
use vm_memory::{Bytes, GuestAddress};

const BATCHES: usize = 10_000;
const LENGTH: u64 = 4096;
const SIZE: u64 = 64 << 20;

/// Types of requests (virtio 1.2, 5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
const GET_ID: u32 = 8;

const HEADERS: u64 = 4 << 20;
const STATUSES: u64 = HEADERS + 0x1000;
const DATA: u64 = HEADERS + 0x10000;

/// A started device whose available ring has `batch` requests in turns, none of them available yet.
fn prepare(disk: Disk, kind: u32, batch: u16) -> MockDriver {
    let device = BlockDevice::new(Arc::new(disk), BlockOptions::default()).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    let memory = driver.memory().clone();
    let queue = driver.queue(0);
    let (length, writable) = match kind {
        READ => (LENGTH, flags::WRITE),
        WRITE => (LENGTH, 0),
        _ => (20, flags::WRITE),
    };
    for slot in 0..batch {
        let (head, at) = (slot * 3, u64::from(slot));
        let header = (HEADERS + at * 16, 16, flags::NEXT, head + 1);
        let body = (
            DATA + at * LENGTH,
            length as u32,
            flags::NEXT | writable,
            head + 2,
        );
        queue.write_descriptor(head, header);
        queue.write_descriptor(head + 1, body);
        queue.write_descriptor(head + 2, (STATUSES + at, 1, flags::WRITE, 0));
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        // Sectors that are no neighbours.
        let sector = at * 37 % (SIZE / LENGTH) * (LENGTH / 512);
        header[8..].copy_from_slice(&sector.to_le_bytes());
        memory
            .write_slice(&header, GuestAddress(HEADERS + at * 16))
            .unwrap();
        memory
            .write_obj(0xff_u8, GuestAddress(STATUSES + at))
            .unwrap();
        memory
            .write_slice(&[1; LENGTH as usize], GuestAddress(DATA + at * LENGTH))
            .unwrap();
    }
    for entry in 0..queue.size() {
        let at = GuestAddress(queue.avail_ring + 4 + u64::from(entry) * 2);
        memory.write_obj(entry % batch * 3, at).unwrap();
    }
    driver
}

fn median(mut values: Vec<u64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1 as f64
}

fn measure(name: &str, disk: Disk, kind: u32, batch: u16) {
    let mut driver = prepare(disk, kind, batch);
    let cost = guest::run(&mut driver, batch, BATCHES);
    for slot in 0..u64::from(batch) {
        let status = GuestAddress(STATUSES + slot);
        let status: u8 = driver.memory().read_obj(status).unwrap();
        assert_eq!(status, 0, "request {slot}");
    }
    let micros = |ticks: f64| ticks / cost.ticks_per_micro;
    let times = |from: usize, to: usize| {
        let times = cost.log.iter().map(|log| log[to] - log[from]).collect();
        micros(median(times))
    };
    println!(
        "{name:12}  {batch:2} at once  kick {:6.2} us  kick to completion {:7.2} us  CPU beside {:6.2} us each",
        times(0, 1),
        times(0, 2),
        cost.cpu.as_secs_f64() * 1e6 / (BATCHES as f64 * f64::from(batch)),
    );
}

/// Files that are all allocated.
fn images(directory: &Path) -> [(&'static str, PathBuf, Format); 2] {
    let (raw, image) = (directory.join("raw"), directory.join("qcow2"));
    std::fs::write(&raw, vec![1; SIZE as usize]).unwrap();
    let mut convert = std::process::Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    let made = convert.arg(&raw).arg(&image).status().unwrap();
    assert!(made.success(), "qemu-img makes the image");
    [("raw", raw, Format::Raw), ("qcow2", image, Format::Qcow2)]
}

fn main() {
    let words = std::env::args().skip(1);
    let mut directories: Vec<String> = words.filter(|word| word.starts_with('/')).collect();
    if directories.is_empty() {
        directories.push("/dev/shm".to_owned());
    }
    for directory in directories {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap();
        println!("{directory}, cache writeback, load {}", load.trim_end());
        let scratch = tempfile::tempdir_in(&directory).unwrap();
        let images = images(scratch.path());
        for batch in [1, 32] {
            for (name, path, format) in &images {
                let open = || Disk::open(&DiskOptions::new(path, *format)).unwrap();
                if *format == Format::Raw {
                    measure("no file", open(), GET_ID, batch);
                }
                measure(&format!("{name} read"), open(), READ, batch);
                measure(&format!("{name} write"), open(), WRITE, batch);
            }
        }
    }
}
