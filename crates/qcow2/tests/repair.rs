//! What a repair can set right and what it must leave.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::is_sound;
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    AmendOptions, CheckReport, CreateOptions, Error, Image, Incompatible, NewSnapshot, OpenOptions,
    Repair, Storage,
};

fn open(file: &Arc<MemoryStorage>) -> Image {
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    Image::open(file.clone(), options).unwrap()
}

fn repair(image: &Image) -> (CheckReport, Vec<String>) {
    let mut texts = Vec::new();
    let report = image
        .check(Repair::All, &mut |finding| texts.push(finding.text.clone()))
        .unwrap();
    (report, texts)
}

/// A new disk of 1 MiB.
fn create(options: CreateOptions) -> Arc<MemoryStorage> {
    let file = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: 1 << 20,
        ..options
    };
    options.create(&(file.clone() as Arc<dyn Storage>)).unwrap();
    file
}

/// Closes an image; the file offset of its first L2 table.
fn first_table(file: &Arc<MemoryStorage>, image: &Image) -> u64 {
    let l1 = image.header().l1_offset;
    image.close().unwrap();
    let mut word = [0; 8];
    let disk: Arc<dyn Storage> = file.clone();
    disk.read_at(&mut word, l1).unwrap();
    u64::from_be_bytes(word) & 0x00ff_ffff_ffff_fe00
}

/// More references than a refcount can say are told of and left, until refcounts are wider.
#[test]
fn too_many_references_wait_for_wider_refcounts() {
    let file = create(CreateOptions {
        refcount_bits: 1,
        ..CreateOptions::default()
    });
    let image = open(&file);
    image.write_at(&[7; 65536], 0).unwrap();
    let l2 = first_table(&file, &image);
    // The second cluster's entry names the first one's data.
    let mut word = [0; 8];
    let disk: Arc<dyn Storage> = file.clone();
    disk.read_at(&mut word, l2).unwrap();
    disk.write_at(&word, l2 + 8).unwrap();

    let image = open(&file);
    let (report, texts) = repair(&image);
    assert_eq!(
        (report.corruptions, report.corruptions_fixed),
        (1, 0),
        "{texts:?}"
    );
    assert!(texts[0].starts_with("ERROR: overflow cluster"), "{texts:?}");
    assert_eq!(texts.len(), 1, "{texts:?}");
    let wider = AmendOptions {
        refcount_bits: Some(2),
        ..AmendOptions::default()
    };
    image.amend(&wider).unwrap();
    drop(image);

    let image = open(&file);
    let (report, texts) = repair(&image);
    assert_eq!(report.corruptions, 0, "{texts:?}");
    assert!(report.corruptions_fixed > 0, "{texts:?}");
    is_sound(&image);
    image.write_at(&[8; 512], 0).unwrap();
    let mut second = [0; 512];
    image.read_at(&mut second, 65536).unwrap();
    assert_eq!(second, [7; 512], "both are still one cluster");
}

/// Compressed clusters have no subclusters; what such an entry names stays in use.
#[test]
fn a_compressed_cluster_with_subclusters_is_told_of() {
    let file = create(CreateOptions {
        extended_l2: true,
        ..CreateOptions::default()
    });
    let image = open(&file);
    image.write_compressed(&[7; 65536], 0).unwrap();
    let l2 = first_table(&file, &image);
    let disk: Arc<dyn Storage> = file.clone();
    disk.write_at(&1u64.to_be_bytes(), l2 + 8).unwrap();

    let (report, texts) = repair(&open(&file));
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{texts:?}");
    assert!(
        texts[0].contains("cluster 0 with non-zero subcluster"),
        "{texts:?}"
    );
}

/// An image with three snapshots, and the file offset of the second one's table entry.
fn with_snapshots(version: u32) -> (Arc<MemoryStorage>, u64) {
    let file = create(CreateOptions {
        cluster_size: 4096,
        version,
        ..CreateOptions::default()
    });
    let image = open(&file);
    for number in 1..=3 {
        image.write_at(&[number; 20_000], 0).unwrap();
        let new = NewSnapshot {
            name: format!("s{number}"),
            ..NewSnapshot::default()
        };
        image.create_snapshot(&new).unwrap();
    }
    let entry = (40 + 24 + 1 + 2u64).next_multiple_of(8);
    let second = image.header().snapshots_offset + entry;
    image.close().unwrap();
    (file, second)
}

/// Reads all of the disk as a snapshot has it.
fn shown(file: &Arc<MemoryStorage>, snapshot: &str) -> Vec<u8> {
    let options = OpenOptions {
        snapshot: Some(snapshot.into()),
        ..OpenOptions::default()
    };
    let image = Image::open(file.clone(), options).unwrap();
    let mut all = vec![0; 20_000];
    image.read_at(&mut all, 0).unwrap();
    all
}

/// Extra data that is too long makes the table unreadable, until a repair cuts it.
#[test]
fn extra_data_of_a_snapshot_is_cut() {
    for version in [2, 3] {
        let (file, second) = with_snapshots(version);
        let disk: Arc<dyn Storage> = file.clone();
        // The third entry is behind 2000 bytes more.
        let mut entries = [0; 72 * 2];
        disk.read_at(&mut entries, second).unwrap();
        disk.write_at(&(24u32 + 2000).to_be_bytes(), second + 36)
            .unwrap();
        disk.write_at(&[0x77; 2000], second + 64).unwrap();
        disk.write_at(&entries[64..], second + 2064).unwrap();
        let image = open(&file);
        for which in [Repair::Nothing, Repair::Leaks] {
            let refused = image.check(which, &mut |_| {}).unwrap_err().to_string();
            assert!(refused.contains("entry 1"), "{refused}");
        }
        let (report, texts) = repair(&image);
        assert_eq!(
            (report.corruptions, report.corruptions_fixed),
            (0, 1),
            "{texts:?}"
        );
        assert_eq!(
            texts[0],
            "Discarding too much extra metadata in snapshot table entry 1 (2024 > 1024)"
        );
        image.close().unwrap();
        is_sound(&open(&file));
        for number in 1..=3 {
            let found = shown(&file, &format!("s{number}"));
            assert_eq!(found, [number; 20_000], "version {version}");
        }
    }
}

/// What version 3 demands of an entry is filled in.
#[test]
fn entries_that_lack_extra_data_are_completed() {
    let (file, _) = with_snapshots(2);
    let disk: Arc<dyn Storage> = file.clone();
    let header = open(&file).header();
    // Version 2 has no need of extra data: as old programs write it.
    let (mut table, mut at) = (Vec::new(), header.snapshots_offset);
    for _ in 0..3 {
        let mut entry = [0; 72];
        disk.read_at(&mut entry, at).unwrap();
        entry[36..40].fill(0);
        table.extend_from_slice(&entry[..40]);
        table.extend_from_slice(&entry[64..]);
        at += 72;
    }
    disk.write_at(&table, header.snapshots_offset).unwrap();
    is_sound(&open(&file));
    // Version 3, 16 bits for a refcount, a header of 104 bytes.
    disk.write_at(&3u32.to_be_bytes(), 4).unwrap();
    disk.write_at(&[0; 32], 72).unwrap();
    disk.write_at(&4u32.to_be_bytes(), 96).unwrap();
    disk.write_at(&104u32.to_be_bytes(), 100).unwrap();
    disk.write_at(&[0; 8], 104).unwrap();
    let image = open(&file);
    let mut texts = Vec::new();
    let report = image
        .check(Repair::Nothing, &mut |finding| {
            texts.push(finding.text.clone())
        })
        .unwrap();
    assert_eq!(report.corruptions, 3, "{texts:?}");
    assert_eq!(texts[0], "ERROR snapshot table entry 0 is incomplete");
    let (report, texts) = repair(&image);
    assert_eq!(
        (report.corruptions, report.corruptions_fixed),
        (0, 3),
        "{texts:?}"
    );
    image.close().unwrap();
    is_sound(&open(&file));
    for number in 1..=3 {
        assert_eq!(shown(&file, &format!("s{number}")), [number; 20_000]);
    }
}

/// Only a repair opens an image whose header counts more snapshots than there may be.
#[test]
fn snapshots_past_the_limit_are_discarded() {
    for version in [2, 3] {
        let (file, second) = with_snapshots(version);
        let disk: Arc<dyn Storage> = file.clone();
        // Where there is room for empty entries behind those of the table.
        let mut entries = [0; 72 * 3];
        disk.read_at(&mut entries, second - 72).unwrap();
        let place = 16 << 20;

        disk.write_at(&entries, place).unwrap();
        disk.write_at(&[0], place + (3 << 20)).unwrap();
        disk.write_at(&u64::to_be_bytes(place), 64).unwrap();
        disk.write_at(&(65536 + 7u32).to_be_bytes(), 60).unwrap();
        let options = |allow_corrupt| OpenOptions {
            writable: true,
            allow_corrupt,
            ..OpenOptions::default()
        };
        assert!(matches!(
            Image::open(file.clone(), options(false)),
            Err(Error::TooLarge { value: 65543, .. })
        ));
        let image = Image::open(file.clone(), options(true)).unwrap();
        for which in [Repair::Nothing, Repair::Leaks] {
            let refused = image.check(which, &mut |_| {});
            assert!(matches!(refused, Err(Error::TooLarge { value: 65543, .. })));
        }
        let (report, texts) = repair(&image);
        assert_eq!(texts[0], "Discarding 7 overhanging snapshots");
        assert_eq!(report.corruptions, 0, "{texts:?}");
        image.close().unwrap();
        let image = open(&file);
        is_sound(&image);
        assert_eq!(image.snapshots().unwrap().len(), 65536);
        for number in 1..=3 {
            let found = shown(&file, &format!("s{number}"));
            assert_eq!(found, [number; 20_000], "version {version}");
        }
    }
}

/// A name is over where its first zero byte is.
#[test]
fn a_zero_byte_ends_a_name() {
    let (file, second) = with_snapshots(3);
    let disk: Arc<dyn Storage> = file.clone();
    disk.write_at(&[0], second + 40 + 24 + 2).unwrap();
    let names: Vec<String> = (open(&file).snapshots().unwrap().into_iter())
        .map(|snapshot| snapshot.name)
        .collect();
    assert_eq!(names, ["s1", "s", "s3"]);
}

/// The refcounts call the header free: what is to be allocated there is named.
#[test]
fn nothing_is_allocated_on_the_header() {
    let file = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    };
    options.create(&(file.clone() as Arc<dyn Storage>)).unwrap();
    let disk: Arc<dyn Storage> = file.clone();
    let mut word = [0; 8];
    let table = open(&file).header().refcount_table_offset;
    disk.read_at(&mut word, table).unwrap();
    disk.write_at(&[0; 2], u64::from_be_bytes(word)).unwrap();
    let image = open(&file);
    let error = image.write_at(&[7; 100], 0).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidAllocation {
                what: "data cluster" | "L2 table"
            }
        ),
        "{error}"
    );
    assert!(image.header().incompatible.has(Incompatible::CORRUPT));
    assert!(matches!(image.write_at(&[1], 0), Err(Error::Broken)));
}

/// A repair takes the dirty bit away; refcounts that are put off after it need it again.
#[test]
fn lazy_refcounts_are_told_of_again_after_a_repair() {
    let file = create(CreateOptions {
        cluster_size: 4096,
        lazy_refcounts: true,
        ..CreateOptions::default()
    });
    let image = open(&file);
    image.write_at(&[1; 8192], 0).unwrap();
    repair(&image);
    image.write_at(&[2; 65536], 65536).unwrap();
    image.flush().unwrap();
    let left = Arc::new(MemoryStorage::new(file.to_vec()));
    let left = Image::open(left, OpenOptions::default()).unwrap();
    assert!(left.header().incompatible.has(Incompatible::DIRTY));
    image.close().unwrap();
    assert!(!image.header().incompatible.has(Incompatible::DIRTY));
    is_sound(&open(&file));
}

/// Clusters that wait to be freed until a request has ended are no leaks.
#[test]
fn a_repair_frees_nothing_that_is_about_to_be_freed() {
    let file = create(CreateOptions {
        cluster_size: 4096,
        ..CreateOptions::default()
    });
    let image = open(&file);
    image.write_at(&[1; 65536], 0).unwrap();
    image.flush().unwrap();
    let ticket = image.enter();
    image.discard(0, 65536).unwrap();
    let lazy_refcounts = Some(true);
    image
        .amend(&AmendOptions {
            lazy_refcounts,
            ..AmendOptions::default()
        })
        .unwrap();
    image.leave(ticket);
    let (_, texts) = repair(&image);
    assert!(texts.is_empty(), "{texts:?}");
    image.write_at(&[2; 65536], 65536).unwrap();
    image.close().unwrap();
    is_sound(&open(&file));
}
