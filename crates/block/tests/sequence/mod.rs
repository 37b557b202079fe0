//! Any bytes as a sequence of what a driver does to a block device: shared by the fuzz target
//! `device` and by the test that replays its corpus.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_block::{BlockDevice, BlockOptions, Disk};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, Storage};
use strata_virtio::test_utils::MockDriver;

const SIZE: u64 = 1 << 20;

/// A small image in memory.
pub(crate) fn disk() -> Disk {
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 4096,
        ..CreateOptions::default()
    };
    options.create(&memory).unwrap();
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let node = Node::Qcow2(Image::open(memory, options).unwrap());
    Disk::from_node(Arc::new(node), "memory", false).unwrap()
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// A length that is often one that makes sense.
    fn len(&mut self) -> u32 {
        match self.byte() {
            byte @ 0..128 => u32::from(byte % 16) * 512,
            byte => u32::from(byte - 127),
        }
    }
}

/// Waits until all requests are back, or the device is broken.
fn settle(driver: &mut MockDriver) {
    let end = Instant::now() + Duration::from_secs(10);
    while driver.queue(0).in_flight() > 0 && !driver.needs_reset() {
        if driver.take_used(0).is_none() {
            assert!(Instant::now() < end, "requests are lost");
            std::thread::yield_now();
        }
    }
}

/// Does what `data` says.
pub(crate) fn run(data: &[u8]) {
    let device = BlockDevice::new(Arc::new(disk()), BlockOptions::default()).unwrap();
    let control = device.control();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    let mut input = Input(data);
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        let action = input.byte();
        // Kind and sector are near those that exist, or anything.
        let mut header = [0; 16];
        if action & 1 == 0 {
            header[0] = input.byte() % 16;
            header[8..10].copy_from_slice(&input.bytes(2));
            header[9] &= 0x0f;
        } else {
            header.copy_from_slice(&input.bytes(16));
        }
        let length = if action & 2 == 0 {
            16
        } else {
            usize::from(input.byte() % 24)
        };
        let mut first = header.to_vec();
        first.resize(length.max(1), 0);
        let count = usize::from(input.byte() % 4);
        let bodies: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let len = input.len().max(1) as usize;
                let seed = input.bytes(len.min(16));
                seed.iter().copied().cycle().take(len).collect()
            })
            .collect();
        let mut readable: Vec<&[u8]> = vec![&first];
        readable.extend(bodies.iter().map(Vec::as_slice));
        let count = usize::from(input.byte() % 4);
        let mut writable: Vec<u32> = (0..count).map(|_| input.len().max(1)).collect();
        if action & 4 == 0 {
            writable.push(1);
        }
        if action & 8 == 0 {
            driver.add(0, &readable, &writable);
        } else {
            driver.add_indirect(0, &readable, &writable);
        }
        if action & 16 == 0 {
            driver.kick(0);
            settle(&mut driver);
        }
        if action & 0xe0 == 0xe0 || driver.needs_reset() {
            driver.reset();
            driver.start(u64::MAX);
        }
    }
    driver.kick(0);
    settle(&mut driver);
    // The image is whole, whatever was done.
    drop(driver);
    control.disk().close().unwrap();
}
