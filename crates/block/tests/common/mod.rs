//! Images for tests.
#![allow(dead_code, reason = "each test uses some")]
#![allow(clippy::unwrap_used)]

pub(crate) mod guest;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{CreateOptions, Storage};

fn file(path: &Path) -> Arc<dyn Storage> {
    let options = FileOptions {
        write: true,
        create: true,
        direct: false,
    };
    Arc::new(FileStorage::open(path, options).unwrap())
}

/// An empty qcow2 image.
pub(crate) fn create(path: &Path, size: u64) {
    let options = CreateOptions {
        size,
        ..CreateOptions::default()
    };
    options.create(&file(path)).unwrap();
}

/// An empty qcow2 image of any kind.
pub(crate) fn create_with(path: &Path, options: &CreateOptions) {
    options.create(&file(path)).unwrap();
}

/// An empty qcow2 image of 1 MiB that stands on another file.
pub(crate) fn overlay(path: &Path, backing: &str, format: &str) {
    overlay_of(path, 1 << 20, backing, format);
}

/// An empty qcow2 image that stands on another file.
pub(crate) fn overlay_of(path: &Path, size: u64, backing: &str, format: &str) {
    let options = CreateOptions {
        size,
        backing: Some((backing.into(), format.into())),
        ..CreateOptions::default()
    };
    options.create(&file(path)).unwrap();
}

/// A `qemu-io` that has the image open.
pub(crate) struct QemuIo(Child);

pub(crate) fn qemu_io(path: &Path, arguments: &[&str]) -> QemuIo {
    let mut child = Command::new("qemu-io")
        .args(arguments)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It answers once it has the image.
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(b"read 0 512\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    QemuIo(child)
}

impl QemuIo {
    pub(crate) fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
