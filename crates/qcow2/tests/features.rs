//! Compressed clusters, bitmaps, chains, checks and amendments, each beside QEMU.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Random, create, file, is_sound, made, open, qemu_check, qemu_compare, run};
use strata_qcow2::chain::{self, ChainOptions};
use strata_qcow2::{
    AmendOptions, Backing, CompressionType, CreateOptions, Error, Image, NewSnapshot, Node,
    OpenOptions, Preallocation, RawDisk, Repair, commit, measure, rebase,
};

const MIB: u64 = 1 << 20;

#[test]
fn compressed_writes_read_back_everywhere() {
    for compression in [CompressionType::Zlib, CompressionType::Zstd] {
        for cluster_size in [4096, 65536] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            let size = 4 * MIB + 1024;
            create(
                &path,
                &CreateOptions {
                    size,
                    cluster_size,
                    compression,
                    ..Default::default()
                },
            );
            let image = open(&path);
            let mut model = vec![0; size as usize];
            let mut random = Random(3);
            for step in 0..300 {
                let start = random.below(size / cluster_size + 1) * cluster_size;
                let length = cluster_size.min(size - start) as usize;
                let data = match random.below(4) {
                    0 => (0..length).map(|_| random.next() as u8).collect(),
                    _ => random.bytes(length),
                };
                let range = start as usize..start as usize + length;
                if random.below(5) == 0 {
                    image.discard(start, length as u64).unwrap();
                    model[range].fill(0);
                } else if random.below(4) == 0 {
                    let part = length / 3;
                    image.write_at(&data[..part], start + 5).unwrap();
                    model[start as usize + 5..start as usize + 5 + part]
                        .copy_from_slice(&data[..part]);
                } else {
                    image.write_compressed(&data, start).unwrap();
                    model[range].copy_from_slice(&data);
                }
                if step == 100 {
                    let new = NewSnapshot {
                        name: "s".into(),
                        ..Default::default()
                    };
                    image.create_snapshot(&new).unwrap();
                }
                if step == 200 {
                    image.delete_snapshot("s").unwrap();
                }
            }
            image.flush().unwrap();
            is_sound(&image);
            image.close().unwrap();
            qemu_check(&path);
            qemu_compare(&path, &model);
        }
    }
}

fn dirty_bytes(path: &Path, name: &str) -> u64 {
    let list = run(
        "qemu-img",
        &["info", "--output=json", path.to_str().unwrap()],
    );
    assert!(list.contains(&format!("\"name\": \"{name}\"")), "{list}");
    let image = open(path);
    let (mut at, mut sum) = (0, 0);
    while let Some((start, end)) = image.bitmap_next(name, at).unwrap() {
        sum += end - start;
        at = end;
    }
    sum
}

#[test]
fn bitmaps_follow_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let name = path.to_str().unwrap();
    create(
        &path,
        &CreateOptions {
            size: 64 * MIB,
            ..Default::default()
        },
    );
    run(
        "qemu-img",
        &["bitmap", "--add", "-g", "65536", name, "theirs"],
    );
    let image = open(&path);
    image.write_at(&[1; 100], 5 * MIB).unwrap();
    image.add_bitmap("ours", 4096).unwrap();
    image.write_at(&[1; 100], 10 * MIB).unwrap();
    image.write_at(&[2; 100], 10 * MIB + 8192).unwrap();
    image.write_zeroes(20 * MIB, MIB, true).unwrap();
    image.enable_bitmap("theirs", false).unwrap();
    image.write_at(&[1; 100], 30 * MIB).unwrap();
    assert!(matches!(
        image.add_bitmap("ours", 512),
        Err(Error::Exists { .. })
    ));
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
    assert_eq!(dirty_bytes(&path, "theirs"), 2 * 65536 + MIB);
    assert_eq!(dirty_bytes(&path, "ours"), 3 * 4096 + MIB);
    // QEMU tracks in it and this crate reads what it stored.
    run("qemu-io", &["-c", "write 40M 4k", name]);
    assert_eq!(dirty_bytes(&path, "ours"), 4 * 4096 + MIB);
    run("qemu-img", &["bitmap", "--merge", "ours", name, "theirs"]);
    assert_eq!(dirty_bytes(&path, "theirs"), 4 * 65536 + MIB);

    let image = open(&path);
    image.resize(16 * MIB, Preallocation::Off).unwrap();
    image.merge_bitmap("ours", &image, "theirs").unwrap();
    image.close().unwrap();
    drop(image);
    qemu_check(&path);
    assert_eq!(dirty_bytes(&path, "ours"), 2 * 65536);

    // A crash leaves the enabled bitmap unusable, and the image in order.
    let image = open(&path);
    image.write_at(&[1; 100], 0).unwrap();
    image.flush().unwrap();
    image.abandon();
    drop(image);
    let image = open(&path);
    let ours = &image.bitmaps().unwrap()[1];
    assert!(ours.inconsistent && ours.name == "ours");
    assert!(image.clear_bitmap("ours").is_err());
    image.remove_bitmap("ours").unwrap();
    image.close().unwrap();
    drop(image);
    run("qemu-img", &["check", "-r", "leaks", name]);
    qemu_check(&path);
}

/// A base, a middle and a top with some writes in each; what the top reads as.
fn chain_of_three(dir: &Path) -> Vec<u8> {
    let mut model = vec![0; 16 << 20];
    let mut random = Random(11);
    std::fs::write(dir.join("base"), random.bytes(12 << 20)).unwrap();
    let base = std::fs::read(dir.join("base")).unwrap();
    model[..base.len()].copy_from_slice(&base);
    for (name, below) in [("middle", ("base", "raw")), ("top", ("middle", "qcow2"))] {
        let path = dir.join(name);
        let backing = Some((below.0.to_string(), below.1.to_string()));
        create(
            &path,
            &CreateOptions {
                size: 16 * MIB,
                backing,
                ..Default::default()
            },
        );
        let options = ChainOptions {
            writable: true,
            ..Default::default()
        };
        let node = chain::open(&path, &options).unwrap();
        for _ in 0..30 {
            let offset = random.below(16 * MIB - 100_000);
            let data = random.bytes(90_000);
            if random.below(5) == 0 {
                node.write_zeroes(offset, 90_000, true).unwrap();
                model[offset as usize..offset as usize + 90_000].fill(0);
            } else {
                node.write_at(&data, offset).unwrap();
                model[offset as usize..offset as usize + 90_000].copy_from_slice(&data);
            }
        }
        node.as_qcow2().unwrap().close().unwrap();
    }
    model
}

#[test]
fn chains_read_commit_and_rebase() {
    let dir = tempfile::tempdir().unwrap();
    let model = chain_of_three(dir.path());
    let top = dir.path().join("top");
    qemu_check(&top);
    qemu_compare(&top, &model);
    let node = chain::open(&top, &ChainOptions::default()).unwrap();
    let mut all = vec![0; model.len()];
    node.read_at(&mut all, 0).unwrap();
    assert!(all == model);

    // Onto nothing at all, and onto another file.
    let options = ChainOptions {
        writable: true,
        ..Default::default()
    };
    let other = dir.path().join("other");
    std::fs::write(&other, &model[..MIB as usize]).unwrap();
    let node = chain::open(&top, &options).unwrap();
    let raw = Node::Raw(RawDisk::new(file(&other, false)).unwrap());
    let image = node.as_qcow2().unwrap();
    rebase(
        image,
        Some(Arc::new(raw)),
        Some(("other", "raw")),
        &mut |_, _| true,
    )
    .unwrap();
    image.close().unwrap();
    drop(node);
    qemu_check(&top);
    qemu_compare(&top, &model);
    let node = chain::open(&top, &options).unwrap();
    let image = node.as_qcow2().unwrap();
    rebase(image, None, None, &mut |_, _| true).unwrap();
    image.close().unwrap();
    drop(node);
    qemu_check(&top);
    qemu_compare(&top, &model);

    // Down into the raw base across the middle.
    let model = chain_of_three(dir.path());
    let node = chain::open(&top, &ChainOptions::default()).unwrap();
    let target = Node::Raw(RawDisk::new(file(&dir.path().join("base"), false)).unwrap());
    let target = Arc::new(target);
    let middle = Image::open(
        file(&dir.path().join("middle"), false),
        OpenOptions {
            backing: Backing::Node(Arc::clone(&target)),
            ..Default::default()
        },
    )
    .unwrap();
    let options = OpenOptions {
        backing: Backing::Node(Arc::new(Node::Qcow2(middle))),
        writable: true,
        ..Default::default()
    };
    drop(node);
    let node = Node::Qcow2(Image::open(file(&top, false), options).unwrap());
    commit(&node, &target, &mut |_, _| true).unwrap();
    let image = node.as_qcow2().unwrap();
    image.make_empty().unwrap();
    image.close().unwrap();
    drop(node);
    assert!(std::fs::read(dir.path().join("base")).unwrap() == model);
    qemu_check(&top);
}

#[test]
fn chains_refuse_what_the_caller_did_not_allow() {
    let dir = tempfile::tempdir().unwrap();
    chain_of_three(dir.path());
    let top = dir.path().join("top");
    let closed = ChainOptions {
        backing: false,
        ..Default::default()
    };
    let node = chain::open(&top, &closed).unwrap();
    assert!(matches!(
        node.read_at(&mut vec![0; 16 << 20], 0),
        Err(Error::NotAllowed(_))
    ));

    let image = open(&top);
    image.set_backing_name(Some(("top", "qcow2"))).unwrap();
    image.close().unwrap();
    let error = chain::open(&top, &ChainOptions::default()).err().unwrap();
    assert!(error.to_string().contains("loop"), "{error}");
    for (name, format, text) in [
        ("json:{\"driver\":\"raw\"}", "raw", "not allow"),
        ("nbd://host/disk", "raw", "not allow"),
        ("base", "", "does not say the format"),
        ("base", "vmdk", "Unknown driver"),
        ("absent", "raw", "absent"),
    ] {
        let image = open(&top);
        image.set_backing_name(Some((name, format))).unwrap();
        image.close().unwrap();
        let error = chain::open(&top, &ChainOptions::default()).err().unwrap();
        assert!(error.to_string().contains(text), "{error}");
    }
    // A raw base whose guest wrote a qcow2 header is still raw.
    create(
        &dir.path().join("base"),
        &CreateOptions {
            size: MIB,
            ..Default::default()
        },
    );
    let image = open(&top);
    image.set_backing_name(Some(("base", "raw"))).unwrap();
    image.close().unwrap();
    let node = chain::open(&top, &ChainOptions::default()).unwrap();
    assert!(node.backing().unwrap().as_qcow2().is_none());
}

#[test]
fn amended_images_stay_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    create(
        &path,
        &CreateOptions {
            size: 8 * MIB,
            ..Default::default()
        },
    );
    let mut model = vec![0; 8 << 20];
    let image = open(&path);
    image.write_at(&[7; 200_000], 1000).unwrap();
    model[1000..201_000].fill(7);
    image.write_zeroes(65536, 65536, false).unwrap();
    model[65536..131_072].fill(0);
    image.close().unwrap();
    for change in [
        AmendOptions {
            refcount_bits: Some(1),
            ..Default::default()
        },
        AmendOptions {
            refcount_bits: Some(64),
            ..Default::default()
        },
        AmendOptions {
            lazy_refcounts: Some(true),
            ..Default::default()
        },
        AmendOptions {
            refcount_bits: Some(16),
            ..Default::default()
        },
        AmendOptions {
            version: Some(2),
            ..Default::default()
        },
        AmendOptions {
            version: Some(3),
            size: Some(9 * MIB),
            ..Default::default()
        },
    ] {
        let image = open(&path);
        image.amend(&change).unwrap();
        let _ = image.close();
        drop(image);
        model.resize(change.size.unwrap_or(model.len() as u64) as usize, 0);
        qemu_check(&path);
        qemu_compare(&path, &model);
    }
}

#[test]
fn measured_sizes_are_those_of_qemu() {
    for (size, cluster_size, extended_l2) in [
        (MIB, 65536, false),
        (1 << 40, 65536, false),
        (10 << 30, 4096, false),
        (1 << 33, 65536, true),
    ] {
        let options = CreateOptions {
            size,
            cluster_size,
            extended_l2,
            ..Default::default()
        };
        let ours = measure(&options, None).unwrap();
        let text = run(
            "qemu-img",
            &[
                "measure",
                "-O",
                "qcow2",
                "-o",
                &format!("cluster_size={cluster_size},extended_l2={extended_l2}"),
                "--size",
                &size.to_string(),
            ],
        );
        let expected = format!(
            "required size: {}\nfully allocated size: {}\n",
            ours.required, ours.fully_allocated
        );
        assert!(text.starts_with(&expected), "{text} {expected}");
    }
}

#[test]
fn writes_that_would_hit_metadata_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    // Header, refcount table, refcount block, L1, L2: the first five clusters; data is the sixth.
    for (cluster, name) in [
        (1, "refcount table"),
        (2, "refcount block"),
        (3, "active L1 table"),
        (4, "active L2 table"),
    ] {
        create(
            &path,
            &CreateOptions {
                size: 4 * MIB,
                ..Default::default()
            },
        );
        let image = open(&path);
        image.write_at(&[1; 65536], 0).unwrap();
        image.close().unwrap();
        drop(image);
        let entry = (1u64 << 63) | (cluster << 16);
        file(&path, false)
            .write_at(&entry.to_be_bytes(), 4 << 16)
            .unwrap();
        let before = std::fs::read(&path).unwrap();
        let image = open(&path);
        let error = image
            .write_at(&[2; 4096], 65536)
            .and_then(|()| image.write_at(&[2; 512], 0));
        assert!(
            error.as_ref().unwrap_err().to_string().contains(name),
            "{error:?}"
        );
        assert!(matches!(image.write_at(&[2; 512], MIB), Err(Error::Broken)));
        drop(image);
        let after = std::fs::read(&path).unwrap();
        let same = |range: std::ops::Range<usize>| before[range.clone()] == after[range];
        assert!(same(65536..3 << 16), "{name}");
        let options = OpenOptions {
            writable: true,
            ..Default::default()
        };
        assert!(matches!(
            Image::open(file(&path, false), options),
            Err(Error::Corrupt)
        ));
    }
}

/// Without its table nobody knows which clusters a snapshot uses: a repair must not free them.
#[test]
fn a_repair_spares_what_an_unreadable_table_names() {
    let (_dir, path, image) = made(&CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    });
    image.write_at(&[1; 300_000], 0).unwrap();
    image.create_snapshot(&NewSnapshot::default()).unwrap();
    image.write_at(&[2; 300_000], 0).unwrap();
    image.add_bitmap("bits", 65536).unwrap();
    image.close().unwrap();
    let header = image.header();
    let extension = header.extensions.iter().find(|e| e.kind == 0x2385_2875);
    let directory = u64::from_be_bytes(extension.unwrap().data[16..24].try_into().unwrap());
    let storage = file(&path, false);
    for place in [header.snapshots_offset + 36, directory + 16] {
        let mut before = [0; 4];
        storage.read_at(&mut before, place).unwrap();
        storage.write_at(&[0x7f; 4], place).unwrap();
        for repair in [Repair::Leaks, Repair::All] {
            let options = OpenOptions {
                writable: true,
                ..OpenOptions::default()
            };
            let image = Image::open(Arc::clone(&storage), options).unwrap();
            assert!(image.check(repair, &mut |_| {}).is_err());
            image.abandon();
        }
        storage.write_at(&before, place).unwrap();
        is_sound(&open(&path));
    }
}

/// The places of cached slices are allocated when an image is opened.
#[test]
fn no_wish_for_a_cache_takes_the_memory_of_the_host() {
    let options = CreateOptions {
        size: 1 << 50,
        ..CreateOptions::default()
    };
    let (_dir, path, image) = made(&options);
    drop(image);
    let options = OpenOptions {
        l2_cache: u64::MAX,
        ..OpenOptions::default()
    };
    let image = Image::open(file(&path, false), options).unwrap();
    let mut data = [1; 512];
    image.read_at(&mut data, 1 << 49).unwrap();
    assert_eq!(data, [0; 512]);
}

#[test]
fn refcounts_that_a_narrower_width_can_not_hold_are_told() {
    let (_dir, _path, image) = made(&CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    });
    image.write_at(&[1; 65536], 0).unwrap();
    image.create_snapshot(&NewSnapshot::default()).unwrap();
    let narrow = AmendOptions {
        refcount_bits: Some(1),
        ..AmendOptions::default()
    };
    let error = image.amend(&narrow).unwrap_err();
    assert!(error.to_string().contains("has a refcount of 2"), "{error}");
    is_sound(&image);
    image.write_at(&[2; 65536], 0).unwrap();
    is_sound(&image);
}
