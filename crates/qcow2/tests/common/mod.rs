//! What the integration tests share.
#![allow(dead_code)]

pub(crate) mod hooked;
pub(crate) mod stopping;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{CreateOptions, Image, OpenOptions, Repair, Storage};
use tempfile::TempDir;

/// Runs a program that must succeed; its output.
pub(crate) fn run(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command} {args:?}: {text}");
    text
}

pub(crate) fn file(path: &Path, create: bool) -> Arc<dyn Storage> {
    let options = FileOptions {
        write: true,
        create,
        direct: false,
    };
    Arc::new(FileStorage::open(path, options).unwrap())
}

pub(crate) fn open(path: &Path) -> Image {
    Image::open(
        file(path, false),
        OpenOptions {
            writable: true,
            ..OpenOptions::default()
        },
    )
    .unwrap()
}

pub(crate) fn create(path: &Path, options: &CreateOptions) {
    options.create(&file(path, true)).unwrap();
}

/// A new image, open to be written; it goes with its folder.
pub(crate) fn made(options: &CreateOptions) -> (TempDir, PathBuf, Image) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.qcow2");
    create(&path, options);
    let image = open(&path);
    (dir, path, image)
}

/// Fails unless the crate's own check finds the image free of errors and of leaks.
pub(crate) fn is_sound(image: &Image) {
    let mut told = Vec::new();
    let report = image
        .check(Repair::Nothing, &mut |finding| told.push(finding.clone()))
        .unwrap();
    assert!(report.is_clean(), "{told:?}");
}

/// Fails unless all of a guest range is one byte.
pub(crate) fn reads_as(image: &Image, byte: u8, offset: u64, length: u64) {
    let mut seen = vec![!byte; length as usize];
    image.read_at(&mut seen, offset).unwrap();
    let wrong = seen.iter().position(|&other| other != byte);
    assert_eq!(wrong, None, "not {byte} at that distance from {offset:#x}");
}

/// Fails unless QEMU finds the image free of errors and of leaks.
pub(crate) fn qemu_check(path: &Path) {
    run(
        "qemu-img",
        &["check", "-f", "qcow2", path.to_str().unwrap()],
    );
}

/// Fails unless QEMU reads `model` from the image.
pub(crate) fn qemu_compare(path: &Path, model: &[u8]) {
    let raw = path.with_extension("raw");
    std::fs::write(&raw, model).unwrap();
    let names = [path.to_str().unwrap(), raw.to_str().unwrap()];
    run(
        "qemu-img",
        &["compare", "-f", "qcow2", "-F", "raw", names[0], names[1]],
    );
    std::fs::remove_file(&raw).unwrap();
}

/// How often a thread does something.
pub(crate) fn rounds() -> u64 {
    if std::env::var_os("STRATA_TEST_LONG").is_some() {
        3000
    } else {
        200
    }
}

/// Disks of `size` bytes in clusters of every kind.
pub(crate) fn shapes(size: u64) -> Vec<CreateOptions> {
    let base = CreateOptions {
        size,
        cluster_size: 4096,
        ..Default::default()
    };
    vec![
        base.clone(),
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 64,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 64 << 10,
            ..base.clone()
        },
        CreateOptions {
            cluster_size: 16 << 10,
            extended_l2: true,
            ..base.clone()
        },
        CreateOptions {
            lazy_refcounts: true,
            ..base
        },
    ]
}

/// A small generator of numbers that is the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let x = self.0;
        (x ^ (x >> 29)).wrapping_mul(0xbf58476d1ce4e5b9) >> 16
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let byte = self.next() as u8;
        (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect()
    }
}
