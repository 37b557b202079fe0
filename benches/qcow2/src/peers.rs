//! One face for this crate and imago.

use std::path::Path;
use std::sync::Arc;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{Image, OpenOptions};

/// A disk to bench.
pub trait Disk {
    fn read(&self, buf: &mut [u8], offset: u64);
    fn write(&self, buf: &[u8], offset: u64);
    fn flush(&self);
}

pub fn ours(path: &Path, direct: bool) -> Image {
    let options = FileOptions { write: true, create: false, direct };
    let file = FileStorage::open(path, options).expect("an image file");
    let options = OpenOptions { writable: true, ..OpenOptions::default() };
    Image::open(Arc::new(file), options).expect("an image")
}

impl Disk for Image {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.read_at(buf, offset).expect("a read");
    }

    fn write(&self, buf: &[u8], offset: u64) {
        self.write_at(buf, offset).expect("a write");
    }

    fn flush(&self) {
        Image::flush(self).expect("a flush");
    }
}

pub struct Imago {
    access: FormatAccess<File>,
    runtime: tokio::runtime::Runtime,
}

pub fn imago(path: &Path, direct: bool) -> Imago {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let options = imago::StorageOpenOptions::new().direct(direct);
    let image = runtime
        .block_on(
            Qcow2::<File>::builder_path(path)
                .storage_open_options(options)
                .write(true)
                .open(PermissiveImplicitOpenGate::default()),
        )
        .expect("an image");
    Imago { access: FormatAccess::new(image), runtime }
}

impl Disk for Imago {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.runtime.block_on(self.access.read(buf, offset)).expect("a read");
    }

    fn write(&self, buf: &[u8], offset: u64) {
        self.runtime.block_on(self.access.write(buf, offset)).expect("a write");
    }

    fn flush(&self) {
        self.runtime.block_on(self.access.flush()).expect("a flush");
    }
}
