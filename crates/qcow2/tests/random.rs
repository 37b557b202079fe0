//! Random operations on an image and on a plain model; QEMU reads the result back.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use common::{Random, create, open, qemu_check, qemu_compare};
use strata_qcow2::{CompressionType, CreateOptions, Preallocation};

fn shapes() -> Vec<CreateOptions> {
    let base = CreateOptions {
        size: 24 << 20,
        ..CreateOptions::default()
    };
    vec![
        base.clone(),
        CreateOptions {
            version: 2,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 512,
            size: 2 << 20,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 64,
            size: 2 << 20,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 4096,
            refcount_bits: 1,
            size: 9 << 20,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 2 << 20,
            ..base.clone()
        },
        CreateOptions {
            extended_l2: true,
            ..base.clone()
        },
        CreateOptions {
            extended_l2: true,
            cluster_size: 16384,
            ..base.clone()
        },
        CreateOptions {
            compression: CompressionType::Zstd,
            ..base.clone()
        },
        CreateOptions {
            preallocation: Preallocation::Metadata,
            ..base.clone()
        },
        CreateOptions {
            lazy_refcounts: true,
            ..base.clone()
        },
    ]
}

fn one_run(options: &CreateOptions, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    create(&path, options);
    let mut image = open(&path);
    let mut model = vec![0u8; options.size as usize];
    let mut random = Random(seed);
    for step in 0..300 {
        let size = model.len() as u64;
        let largest = [700, 5000, 70_000, 400_000][random.below(4) as usize];
        let offset = random.below(size);
        let length = (1 + random.below(largest)).min(size - offset);
        let range = offset as usize..(offset + length) as usize;
        match random.below(20) {
            0..=8 => {
                let data = random.bytes(length as usize);
                image.write_at(&data, offset).unwrap();
                model[range].copy_from_slice(&data);
            }
            9..=11 => {
                image
                    .write_zeroes(offset, length, random.below(2) == 0)
                    .unwrap();
                model[range].fill(0);
            }
            12 | 13 => {
                image.discard(offset, length).unwrap();
                let cluster = options.cluster_size as usize;
                let end = if range.end == model.len() {
                    range.end.next_multiple_of(cluster)
                } else {
                    range.end
                };
                let low = range.start.next_multiple_of(cluster);
                let high = end / cluster * cluster;
                if low < high {
                    let high = high.min(model.len());
                    model[low..high].fill(0);
                }
            }
            14 => image.flush().unwrap(),
            15 if random.below(4) == 0 => {
                image.close().unwrap();
                drop(image);
                image = open(&path);
            }
            16 if random.below(3) == 0 => {
                let new = match random.below(2) {
                    0 => random.below(options.size * 2),
                    // Often within one cluster.
                    _ => size - (size / 2).min(40_000) + random.below(80_000),
                };
                let new = (new / 512 * 512).max(512);
                image.resize(new, Preallocation::Off).unwrap();
                model.resize(new as usize, 0);
            }
            _ => {
                let mut data = vec![0xee; length as usize];
                image.read_at(&mut data, offset).unwrap();
                assert!(data == model[range], "step {step}");
            }
        }
    }
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
    qemu_compare(&path, &model);
}

#[test]
fn qemu_reads_what_random_operations_left() {
    for (number, options) in shapes().iter().enumerate() {
        for seed in 1..4 {
            println!("shape {number} seed {seed}");
            one_run(options, seed + 100 * number as u64);
        }
    }
}
