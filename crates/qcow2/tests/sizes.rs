//! Disks that grow and shrink, also under readers and writers.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Random, create, file, is_sound, made, open, qemu_check, reads_as, rounds, shapes};
use strata_qcow2::{Backing, CreateOptions, Image, NewSnapshot, Node, OpenOptions, Preallocation};

const KIB: u64 = 1 << 10;

/// Tables that name something past the end of the disk are no part of what it grows into.
#[test]
fn a_disk_grows_into_zeroes() {
    let options = CreateOptions {
        size: 1024 * KIB,
        ..CreateOptions::default()
    };
    let (_dir, path, image) = made(&options);
    image.write_at(&[1; 1 << 20], 0).unwrap();
    image.close().unwrap();
    let storage = file(&path, false);
    storage.write_at(&(300 * KIB).to_be_bytes(), 24).unwrap();
    let image = open(&path);
    image.resize(1024 * KIB, Preallocation::Off).unwrap();
    reads_as(&image, 1, 0, 300 * KIB);
    reads_as(&image, 0, 300 * KIB, 724 * KIB);
    is_sound(&image);
}

/// The cluster with the old end in it keeps its data wherever the new end is, and neither cut data
/// nor the backing file shows behind it.
#[test]
fn growing_keeps_the_cluster_of_the_old_end() {
    for (extended_l2, version) in [(false, 2), (false, 3), (true, 3)] {
        for below in [false, true] {
            // Within the same cluster, to its end, and past it.
            for end in [567, 576, 640, 900] {
                let dir = tempfile::tempdir().unwrap();
                let [base, top] = ["base", "top"].map(|name| dir.path().join(name));
                let options = CreateOptions {
                    size: 1024 * KIB,
                    version,
                    ..CreateOptions::default()
                };
                create(&base, &options);
                let under = open(&base);
                under.write_at(&[0x11; 1 << 20], 0).unwrap();
                let backing = match below {
                    true => Backing::Node(Arc::new(Node::Qcow2(under))),
                    false => Backing::Closed,
                };
                create(
                    &top,
                    &CreateOptions {
                        extended_l2,
                        ..options
                    },
                );
                let image = Image::open(
                    file(&top, false),
                    OpenOptions {
                        writable: true,
                        backing,
                        ..OpenOptions::default()
                    },
                )
                .unwrap();
                image.write_at(&[0x22; 1 << 20], 0).unwrap();
                image.resize(520 * KIB, Preallocation::Off).unwrap();
                image.resize(end * KIB, Preallocation::Off).unwrap();
                reads_as(&image, 0x22, 0, 520 * KIB);
                reads_as(&image, 0, 520 * KIB, (end - 520) * KIB);
                is_sound(&image);
                image.close().unwrap();
                qemu_check(&top);
            }
        }
    }
}

/// The disk may be resized and looked at from all sides meanwhile.
#[test]
fn sizes_change_under_readers_and_writers() {
    const SIZE: u64 = 200 << 10;
    let (_dir, path, image) = made(&CreateOptions {
        size: SIZE,
        cluster_size: 1024,
        ..Default::default()
    });
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4u64 {
            let (image, stop) = (&image, &stop);
            scope.spawn(move || {
                let mut random = Random(number);
                while !stop.load(Ordering::Relaxed) {
                    let at = random.below(SIZE);
                    // Out of range is an answer, too.
                    let _ = image.write_at(&[number as u8; 3000], at);
                    let _ = image.read_at(&mut [0; 3000], at);
                    let _ = image.discard(at, 5000);
                }
            });
        }
        let mut random = Random(9);
        for _ in 0..rounds() / 4 {
            let size = (1 + random.below(SIZE / 512)) * 512;
            image.resize(size, Preallocation::Off).unwrap();
            assert_eq!(image.size(), size);
        }
        stop.store(true, Ordering::Relaxed);
    });
    is_sound(&image);
    image.close().unwrap();
    qemu_check(&path);
}

/// Sizes that several threads ask for are taken one after the other.
#[test]
fn sizes_are_changed_by_one_at_a_time() {
    const SIZE: u64 = 100 << 10;
    let (_dir, _path, image) = made(&CreateOptions {
        size: SIZE,
        cluster_size: 512,
        ..Default::default()
    });
    image.create_snapshot(&NewSnapshot::default()).unwrap();
    for round in 0..rounds() / 5 {
        thread::scope(|scope| {
            for number in 0..6 {
                let image = &image;
                scope.spawn(move || {
                    let mut random = Random(round * 6 + number);
                    for _ in 0..4 {
                        let size = (1 + random.below(SIZE / 512)) * 512;
                        image.resize(size, Preallocation::Off).unwrap();
                        let _ = image.write_at(&[9; 700], size - 512);
                    }
                    if number == 0 {
                        image.apply_snapshot("1").unwrap();
                    }
                });
            }
        });
        assert_eq!(image.size(), image.header().size);
        is_sound(&image);
        let end = image.size();
        image.resize(SIZE * 2, Preallocation::Off).unwrap();
        reads_as(&image, 0, end, SIZE * 2 - end);
    }
}

/// Writes past the new end of a disk that shrinks meanwhile are done before it is cut, or fail:
/// nothing of them stays behind, and nothing shows when the disk grows again.
#[test]
fn writes_do_not_outlive_a_cut() {
    const HALF: u64 = 64 << 10;
    for options in shapes(2 * HALF) {
        let (_dir, path, image) = made(&options);
        for round in 0..rounds() / 5 {
            thread::scope(|scope| {
                for number in 0..3 {
                    let image = &image;
                    scope.spawn(move || {
                        let mut random = Random(round * 3 + number);
                        let cluster = options.cluster_size as usize;
                        loop {
                            let at = HALF + random.below(HALF);
                            let whole = at - at % options.cluster_size;
                            let done = match random.below(4) {
                                0 => image.write_compressed(&vec![6; cluster], whole),
                                1 => image.write_zeroes(at, (2 * HALF - at).min(700), true),
                                _ => image
                                    .write_at(&[5; 300][..(2 * HALF - at).min(300) as usize], at),
                            };
                            if done.is_err() {
                                break;
                            }
                        }
                    });
                }
                thread::sleep(std::time::Duration::from_micros(round % 400));
                image.resize(HALF, Preallocation::Off).unwrap();
            });
            is_sound(&image);
            image.resize(2 * HALF, Preallocation::Off).unwrap();
            reads_as(&image, 0, HALF, HALF);
        }
        image.close().unwrap();
        qemu_check(&path);
    }
}

/// Requests up to the end of the disk may take the rest of its last cluster along, but not once
/// the disk has grown and that holds data.
#[test]
fn requests_up_to_an_old_end_leave_what_is_written_behind_it() {
    for options in shapes(64 * KIB) {
        let cluster = options.cluster_size;
        let end = 64 * KIB + 512;
        let start = end - end % cluster;
        let (_dir, path, image) = made(&options);
        image.resize(end, Preallocation::Off).unwrap();
        for round in 0..rounds() / 5 {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for number in 0..3 {
                    let (image, stop) = (&image, &stop);
                    scope.spawn(move || {
                        let length = end - start;
                        while !stop.load(Ordering::Relaxed) {
                            let _ = match number {
                                0 => image.write_zeroes(start, length, true),
                                1 => image.discard(start, length),
                                _ => image.write_compressed(&[6; 512][..length as usize], start),
                            };
                        }
                    });
                }
                thread::sleep(std::time::Duration::from_micros(round % 400));
                image.resize(end + 512, Preallocation::Off).unwrap();
                image.write_at(&[7; 512], end).unwrap();
                thread::sleep(std::time::Duration::from_micros(100));
                stop.store(true, Ordering::Relaxed);
            });
            reads_as(&image, 7, end, 512);
            image.resize(end, Preallocation::Off).unwrap();
        }
        is_sound(&image);
        image.close().unwrap();
        qemu_check(&path);
    }
}
