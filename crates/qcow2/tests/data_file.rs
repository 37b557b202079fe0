//! Images with an external data file that reads as a raw image by itself: it must be one whatever
//! is done through the image.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::{Random, is_sound, qemu_check, qemu_compare};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{CreateOptions, Image, OpenOptions, Preallocation, Storage};

const SIZE: u64 = 2 << 20;

fn one_run(extended_l2: bool, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let [path, data_path] = ["image.qcow2", "data"].map(|name| dir.path().join(name));
    let [file, data] = [(); 2].map(|()| Arc::new(MemoryStorage::default()));
    let options = CreateOptions {
        size: SIZE,
        extended_l2,
        data_file: Some((data_path.to_str().unwrap().into(), data.clone())),
        data_file_raw: true,
        ..Default::default()
    };
    options.create(&(file.clone() as Arc<dyn Storage>)).unwrap();
    let open = || {
        let options = OpenOptions {
            writable: true,
            data_file: Some(data.clone()),
            ..Default::default()
        };
        Image::open(file.clone(), options).unwrap()
    };
    let mut image = open();
    let mut model = vec![0; SIZE as usize];
    let mut random = Random(seed);
    for step in 0..100 {
        let size = model.len() as u64;
        let at = random.below(size);
        let length = (1 + random.below([700, 5000, 200_000][step % 3])).min(size - at);
        let range = at as usize..(at + length) as usize;
        match random.below(12) {
            0..=4 => {
                let bytes = random.bytes(length as usize);
                image.write_at(&bytes, at).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            5..=7 => {
                image
                    .write_zeroes(at, length, random.below(2) == 0)
                    .unwrap();
                model[range].fill(0);
            }
            8 => {
                let (at, length) = (at / 65536 * 65536, 65536);
                image.discard(at, length.min(size - at)).unwrap();
                model[at as usize..(at + length).min(size) as usize].fill(0);
            }
            9 => {
                let new = (size - (size / 2).min(50_000) + random.below(100_000)) / 512 * 512;
                image.resize(new.max(512), Preallocation::Off).unwrap();
                model.resize(new.max(512) as usize, 0);
            }
            10 => {
                image.close().unwrap();
                drop(image);
                image = open();
            }
            _ => image.flush().unwrap(),
        }
        let mut seen = vec![0xee; model.len()];
        image.read_at(&mut seen, 0).unwrap();
        assert!(seen == model, "step {step}");
        assert!(
            data.to_vec() == model,
            "step {step}: the data file is another disk"
        );
    }
    is_sound(&image);
    image.close().unwrap();
    std::fs::write(&path, file.to_vec()).unwrap();
    std::fs::write(&data_path, data.to_vec()).unwrap();
    qemu_check(&path);
    qemu_compare(&path, &model);
}

#[test]
fn a_raw_data_file_is_the_disk() {
    for extended_l2 in [false, true] {
        for seed in 1..4 {
            println!("extended {extended_l2} seed {seed}");
            one_run(extended_l2, seed);
        }
    }
}
