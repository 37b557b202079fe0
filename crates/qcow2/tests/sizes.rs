//! Disks that grow and shrink, also under readers and writers.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::{create, file, is_sound, made, open, qemu_check, reads_as};
use strata_qcow2::{Backing, CreateOptions, Image, Node, OpenOptions, Preallocation};

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
