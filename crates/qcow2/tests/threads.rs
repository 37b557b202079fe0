//! Many threads on one image, each with sectors of its own, while clusters come and go under
//! them and snapshots are taken.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Random, create, open, qemu_check};
use strata_qcow2::{CreateOptions, NewSnapshot, Repair};

const SIZE: u64 = 8 << 20;
const THREADS: u64 = 4;
const SECTOR: u64 = 512;

#[test]
fn every_thread_reads_what_it_wrote() {
    for extended_l2 in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        create(
            &path,
            &CreateOptions {
                size: SIZE,
                extended_l2,
                ..Default::default()
            },
        );
        let image = open(&path);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let image = &image;
                    scope.spawn(move || {
                        let mut random = Random(thread + 1);
                        let mut model = vec![0u8; (SIZE / SECTOR) as usize];
                        for _ in 0..4000 {
                            // The threads' sectors alternate, so that they share clusters.
                            let sector = random.below(SIZE / SECTOR / THREADS) * THREADS + thread;
                            let mut buf = vec![0; SECTOR as usize];
                            image.read_at(&mut buf, sector * SECTOR).unwrap();
                            assert_eq!(buf, vec![model[sector as usize]; SECTOR as usize]);
                            let value = random.next() as u8;
                            buf.fill(value);
                            image.write_at(&buf, sector * SECTOR).unwrap();
                            model[sector as usize] = value;
                            if random.below(200) == 0 {
                                image.flush().unwrap();
                            }
                        }
                    })
                })
                .collect();
            let (image, done) = (&image, &done);
            let other = scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let id = image.create_snapshot(&NewSnapshot::default()).unwrap();
                    std::thread::yield_now();
                    image.delete_snapshot(&id).unwrap();
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            other.join().unwrap();
        });
        let report = image
            .check(Repair::Nothing, &mut |f| println!("{}", f.text))
            .unwrap();
        assert!(report.is_clean());
        image.close().unwrap();
        drop(image);
        qemu_check(&path);
    }
}

#[test]
fn a_ticket_keeps_a_freed_cluster_from_another_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: SIZE,
            ..Default::default()
        },
    );
    let image = open(&path);
    image.write_at(&[1; 65536], 0).unwrap();
    let ticket = image.enter();
    let (old, _) = image.overwrite(0, 4096).unwrap().unwrap();
    image.discard(0, 65536).unwrap();
    image.flush().unwrap();
    for cluster in 1..20 {
        image.write_at(&[2; 65536], cluster << 16).unwrap();
        let (new, _) = image.overwrite(cluster << 16, 4096).unwrap().unwrap();
        assert_ne!(old, new);
    }
    image.leave(ticket);
    image.flush().unwrap();
    image.write_at(&[3; 65536], 30 << 16).unwrap();
    assert_eq!(image.overwrite(30 << 16, 4096).unwrap().unwrap().0, old);
}

#[cfg(feature = "io-uring")]
#[test]
fn images_work_through_io_uring() {
    use std::sync::Arc;
    use strata_qcow2::storage::UringStorage;
    use strata_qcow2::{Image, OpenOptions};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: SIZE,
            ..Default::default()
        },
    );
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
