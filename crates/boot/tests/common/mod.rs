//! What the integration tests share.

#![allow(dead_code)]

use std::error::Error as _;
use std::path::PathBuf;

use strata_boot::Error;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest memory of some MiB from address 0.
pub(crate) fn memory(mib: usize) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), mib << 20)]).unwrap()
}

/// A file with this content, in a directory that lives as long as the returned guard.
pub(crate) fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

pub(crate) fn read(mem: &GuestMemoryMmap, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
    bytes
}

pub(crate) fn u32_at(mem: &GuestMemoryMmap, addr: u64) -> u32 {
    mem.read_obj(GuestAddress(addr)).unwrap()
}

pub(crate) fn u64_at(mem: &GuestMemoryMmap, addr: u64) -> u64 {
    mem.read_obj(GuestAddress(addr)).unwrap()
}

/// What is the matter with the file: the cause behind [`Error::Kernel`] or [`Error::Initrd`].
pub(crate) fn cause(error: Error) -> Error {
    match error {
        Error::Kernel { source, .. } | Error::Initrd { source, .. } => *source,
        other => other,
    }
}

/// An error and its causes in one line, as a program prints them.
pub(crate) fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}
