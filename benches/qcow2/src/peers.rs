//! One face for this crate and its peers.

use std::path::Path;
use std::sync::Arc;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_setup_dev_sync;
use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{Image, OpenOptions};

/// A disk to bench.
pub trait Disk {
    fn read(&self, buf: &mut [u8], offset: u64);
    fn write(&self, buf: &[u8], offset: u64);
    fn flush(&self);
}

pub fn ours(path: &Path, direct: bool) -> Image {
    let options = FileOptions {
        write: true,
        create: false,
        direct,
    };
    let file = FileStorage::open(path, options).expect("an image file");
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let options = imago::StorageOpenOptions::new().direct(direct);
    let image = runtime
        .block_on(
            Qcow2::<File>::builder_path(path)
                .storage_open_options(options)
                .write(true)
                .open(PermissiveImplicitOpenGate::default()),
        )
        .expect("an image");
    Imago {
        access: FormatAccess::new(image),
        runtime,
    }
}

impl Disk for Imago {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.runtime
            .block_on(self.access.read(buf, offset))
            .expect("a read");
    }

    fn write(&self, buf: &[u8], offset: u64) {
        self.runtime
            .block_on(self.access.write(buf, offset))
            .expect("a write");
    }

    fn flush(&self) {
        self.runtime.block_on(self.access.flush()).expect("a flush");
    }
}

pub struct Qcow2Rs {
    device: Qcow2Dev<Qcow2IoSync>,
    runtime: tokio::runtime::Runtime,
}

/// Its default caches, and blocks of 512 bytes as its own documentation opens an image.
pub fn qcow2_rs_params(writable: bool, direct: bool) -> Qcow2DevParams {
    Qcow2DevParams::new(9, None, None, !writable, direct)
}

/// qcow2-rs on plain system calls: no other engine of its own costs less here.
pub fn qcow2_rs(path: &Path) -> Qcow2Rs {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let device = qcow2_setup_dev_sync(path, &qcow2_rs_params(true, false)).expect("an image");
    runtime
        .block_on(device.qcow2_prep_io())
        .expect("preparations");
    Qcow2Rs { device, runtime }
}

impl Disk for Qcow2Rs {
    fn read(&self, buf: &mut [u8], offset: u64) {
        let done = self.runtime.block_on(self.device.read_at(buf, offset));
        assert_eq!(done.expect("a read"), buf.len());
    }

    fn write(&self, buf: &[u8], offset: u64) {
        self.runtime
            .block_on(self.device.write_at(buf, offset))
            .expect("a write");
    }

    fn flush(&self) {
        self.runtime
            .block_on(self.device.flush_meta())
            .expect("a flush");
    }
}
