//! What a repair can set right and what it must leave.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::Arc;

use common::is_sound;
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{AmendOptions, CheckReport, CreateOptions, Image, OpenOptions, Repair, Storage};

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

/// More references than a refcount can say are told of and left, until refcounts are wider.
#[test]
fn too_many_references_wait_for_wider_refcounts() {
    let file = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: 1 << 20,
        refcount_bits: 1,
        ..CreateOptions::default()
    };
    options.create(&(file.clone() as Arc<dyn Storage>)).unwrap();
    let image = open(&file);
    image.write_at(&[7; 65536], 0).unwrap();
    let l1 = image.header().l1_offset;
    image.close().unwrap();
    // The second cluster's entry names the first one's data.
    let mut word = [0; 8];
    let disk: Arc<dyn Storage> = file.clone();
    disk.read_at(&mut word, l1).unwrap();
    let l2 = u64::from_be_bytes(word) & 0x00ff_ffff_ffff_fe00;
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
