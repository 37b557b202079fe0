//! After a flush was answered its data survives the loss of power, whatever else was under way.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::guest::{DISCARD, Guest, OK, range};
use strata_block::{BlockOptions, Disk};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{History, PowerDisk};
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, Repair, Storage};

const SIZE: usize = 256 << 10;

/// What a flush promises: from which change on, and what of the disk.
struct Promise {
    moment: usize,
    bytes: Vec<u8>,
}

#[test]
fn what_was_flushed_survives() {
    let memory = Arc::new(MemoryStorage::default());
    let storage: Arc<dyn Storage> = memory.clone();
    let options = CreateOptions {
        size: SIZE as u64,
        cluster_size: 4096,
        ..CreateOptions::default()
    };
    options.create(&storage).unwrap();
    let history = Arc::new(History::default());
    let power = Arc::new(PowerDisk::new(&history, 0, memory.to_vec()));
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(power.clone(), options.clone()).unwrap();
    let disk = Disk::from_node(Arc::new(Node::Qcow2(image)), "power", false).unwrap();
    let mut guest = Guest::new(disk, BlockOptions::default());

    let mut bytes = vec![0; SIZE];
    let mut promises = Vec::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 1..24_u8 {
        for _ in 0..4 {
            let sector = next(SIZE as u64 / 512 - 16);
            let data = vec![round; 512 * (1 + next(16) as usize)];
            assert_eq!(guest.write(sector, &data), OK);
            let at = sector as usize * 512;
            bytes[at..at + data.len()].copy_from_slice(&data);
        }
        assert_eq!(guest.flush(), OK);
        let moment = history.now();
        promises.push(Promise {
            moment,
            bytes: bytes.clone(),
        });
        if round % 5 == 0 {
            // A cluster of which nothing is promised any more.
            let cluster = next(SIZE as u64 / 4096);
            assert_eq!(guest.request(DISCARD, 0, &range(cluster * 8, 8, 0)), OK);
            let at = cluster as usize * 4096;
            bytes[at..at + 4096].fill(0);
        }
    }

    for (number, promise) in promises.iter().enumerate() {
        // Right after the flush, nothing but what is durable.
        let left = power.after_power_loss(promise.moment, &mut |_, _| false);
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(left));
        let image = Image::open(storage, options.clone()).unwrap();
        let mut found = vec![0; SIZE];
        image.read_at(&mut found, 0).unwrap();
        assert!(found == promise.bytes, "flush {number}");
        let report = image.check(Repair::Nothing, &mut |_| {}).unwrap();
        assert_eq!(report.corruptions, 0, "flush {number}");
    }
}
