//! Images with an external data file that reads as a raw image by itself: it must be one whatever
//! is done through the image.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};

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

/// An image whose raw data file is `data`.
fn raw_image(extended_l2: bool, data: Arc<dyn Storage>) -> Image {
    let file = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: SIZE,
        extended_l2,
        data_file: Some(("data".into(), data.clone())),
        data_file_raw: true,
        ..Default::default()
    };
    options.create(&(file.clone() as Arc<dyn Storage>)).unwrap();
    let options = OpenOptions {
        writable: true,
        data_file: Some(data),
        ..Default::default()
    };
    Image::open(file, options).unwrap()
}

fn image_equals_file(image: &Image, data: &MemoryStorage, what: &str) {
    let mut seen = vec![0xee; SIZE as usize];
    image.read_at(&mut seen, 0).unwrap();
    assert!(
        seen == data.to_vec(),
        "{what}: the data file is another disk"
    );
    is_sound(image);
}

type Operation = fn(&Image) -> strata_qcow2::Result<()>;

/// Cluster 1, all of it or its subclusters 1 and 2, reads as zeroes afterwards.
const ZEROING: [(&str, Operation); 4] = [
    ("zeroes", |image| image.write_zeroes(65536, 65536, false)),
    ("unmap", |image| image.write_zeroes(65536, 65536, true)),
    ("discard", |image| image.discard(65536, 65536)),
    ("part", |image| image.write_zeroes(65536 + 2048, 4096, true)),
];

/// A write that began before a range was zeroed may reach the data file after it.
#[test]
fn zeroes_and_a_write_in_place_leave_one_disk() {
    for extended_l2 in [false, true] {
        for (name, zero) in ZEROING {
            let data = Arc::new(MemoryStorage::default());
            let image = raw_image(extended_l2, data.clone());
            image.write_at(&[0x55; 3 * 65536], 0).unwrap();
            let ticket = image.enter();
            let (host, length) = image.overwrite(65536 + 2048, 4096).unwrap().unwrap();
            zero(&image).unwrap();
            let late = vec![0xaa; length as usize];
            data.write_vectored_at(&[IoSlice::new(&late)], host)
                .unwrap();
            image.leave(ticket);
            image_equals_file(&image, &data, &format!("{name}, extended {extended_l2}"));
        }
    }
}

/// The same for a write that gets the cluster meanwhile.
#[test]
fn zeroes_and_an_allocating_write_leave_one_disk() {
    for extended_l2 in [false, true] {
        for (name, zero) in &ZEROING[..3] {
            let data = Arc::new(Meanwhile::default());
            let image = Arc::new(raw_image(extended_l2, data.clone()));
            let writer = image.clone();
            *data.then.lock().unwrap() = Some(Box::new(move || {
                writer.write_at(&[0xaa; 4096], 65536 + 2048).unwrap();
            }));
            zero(&image).unwrap();
            assert!(
                data.then.lock().unwrap().is_none(),
                "{name} did not reach the file"
            );
            image_equals_file(
                &image,
                &data.file,
                &format!("{name}, extended {extended_l2}"),
            );
        }
    }
}

/// A file that does one more thing right after it was zeroed the first time.
#[derive(Default)]
struct Meanwhile {
    file: MemoryStorage,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Storage for Meanwhile {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(bufs, offset)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.file.write_zeroes(offset, len, unmap)?;
        let then = self.then.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }
}
