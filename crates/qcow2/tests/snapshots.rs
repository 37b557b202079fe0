//! Snapshots between random writes; each must read as it was, to this crate and to QEMU.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use common::{Random, is_sound, made, qemu_check, qemu_compare, run};
use strata_qcow2::{CreateOptions, NewSnapshot, Preallocation};

fn one_run(options: &CreateOptions, seed: u64) {
    let (_dir, path, image) = made(options);
    let mut model = vec![0u8; options.size as usize];
    let mut saved: Vec<(String, Vec<u8>)> = Vec::new();
    let mut random = Random(seed);
    for step in 0..120 {
        let size = model.len() as u64;
        let offset = random.below(size);
        let length = (1 + random.below(150_000)).min(size - offset);
        let range = offset as usize..(offset + length) as usize;
        match random.below(14) {
            0..=5 => {
                let data = random.bytes(length as usize);
                image.write_at(&data, offset).unwrap();
                model[range].copy_from_slice(&data);
            }
            6 => {
                image
                    .write_zeroes(offset, length, random.below(2) == 0)
                    .unwrap();
                model[range].fill(0);
            }
            7 | 8 if saved.len() < 3 => {
                let name = format!("snap{step}");
                let new = NewSnapshot {
                    name,
                    ..NewSnapshot::default()
                };
                let id = image.create_snapshot(&new).unwrap();
                saved.push((id, model.clone()));
            }
            9 if !saved.is_empty() => {
                let (id, old) = &saved[random.below(saved.len() as u64) as usize];
                image.apply_snapshot(id).unwrap();
                model = old.clone();
            }
            10 if !saved.is_empty() => {
                let (id, _) = saved.remove(random.below(saved.len() as u64) as usize);
                image.delete_snapshot(&id).unwrap();
            }
            11 if options.version >= 3 => {
                let new = (random.below(options.size * 2) / 512 * 512).max(512);
                image.resize(new, Preallocation::Off).unwrap();
                model.resize(new as usize, 0);
            }
            _ => {
                let mut data = vec![0xee; length as usize];
                image.read_at(&mut data, offset).unwrap();
                assert!(data == model[range], "step {step}");
            }
        }
        if step % 10 == 0 {
            image.flush().unwrap();
            is_sound(&image);
        }
    }
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
    qemu_compare(&path, &model);
    for (id, model) in saved {
        run("qemu-img", &["snapshot", "-a", &id, path.to_str().unwrap()]);
        qemu_compare(&path, &model);
    }
    qemu_check(&path);
}

#[test]
fn snapshots_keep_what_they_saw() {
    let base = CreateOptions {
        size: 8 << 20,
        ..CreateOptions::default()
    };
    let shapes = [
        base.clone(),
        CreateOptions {
            version: 2,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 512,
            size: 1 << 20,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 4096,
            refcount_bits: 8,
            ..base.clone()
        },
        CreateOptions {
            extended_l2: true,
            cluster_size: 16384,
            ..base.clone()
        },
    ];
    for (number, options) in shapes.iter().enumerate() {
        for seed in 1..4 {
            println!("shape {number} seed {seed}");
            one_run(options, seed + 10 * number as u64);
        }
    }
}

#[test]
fn machine_state_goes_with_its_snapshot() {
    let (_dir, path, image) = made(&CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    });
    let memory = Random(7).bytes(300_000);
    image.write_vm_state(&memory, 0).unwrap();
    let new = NewSnapshot {
        name: "vm".into(),
        vm_state_size: memory.len() as u64,
        ..NewSnapshot::default()
    };
    image.create_snapshot(&new).unwrap();
    image.write_at(&[5; 4096], 0).unwrap();
    image.apply_snapshot("vm").unwrap();
    let mut back = vec![0; memory.len()];
    image.read_vm_state(&mut back, 0).unwrap();
    assert!(back == memory);
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
    let list = run("qemu-img", &["snapshot", "-l", path.to_str().unwrap()]);
    assert!(list.contains("293 KiB"), "{list}");
}
