//! An image behind io_uring.
#![cfg(feature = "io-uring")]
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::{Random, made, qemu_check};
use strata_qcow2::storage::UringStorage;
use strata_qcow2::{CreateOptions, Image, OpenOptions};

#[test]
fn images_work_through_io_uring() {
    let (_dir, path, image) = made(&CreateOptions {
        size: 8 << 20,
        ..Default::default()
    });
    image.close().unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let storage = Arc::new(UringStorage::from_file(file).unwrap());
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(storage, options).unwrap();
    let data = Random(1).bytes(300_000);
    image.write_at(&data, 12345).unwrap();
    image.flush().unwrap();
    let mut back = vec![0; data.len()];
    image.read_at(&mut back, 12345).unwrap();
    assert!(back == data);
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
}
