//! A disk as the file below another format, or below a temporary overlay.

use std::fs::OpenOptions as FileOpenOptions;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use strata_qcow2::storage::FileStorage;
use strata_qcow2::{
    Backing, CreateOptions, Error, Image, Node, OpenOptions, Preallocation, Storage,
};

use super::words::{errno, words};
use crate::report::{Failure, Outcome};

/// A disk's guest data as a storage.
pub(super) struct NodeStorage(pub(super) Arc<Node>);

fn io_error(error: strata_qcow2::Error) -> io::Error {
    io::Error::from_raw_os_error(errno(&error))
}

impl Storage for NodeStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.0.read_at(buf, at).map_err(io_error)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.0.write_at(buf, at).map_err(io_error)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush().map_err(io_error)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.size())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.resize(len, Preallocation::Off).map_err(io_error)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match &*self.0 {
            Node::Qcow2(image) => match image.discard(offset, len) {
                Err(Error::Unsupported(_)) => Ok(()),
                done => done.map_err(io_error),
            },
            Node::Raw(disk) => disk.storage().discard(offset, len),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, len, unmap).map_err(io_error)
    }
}

/// An overlay on `below` in a file without a name, which is gone when it is closed.
///
/// # Errors
/// If there is no place for temporary files.
pub(super) fn temporary_overlay(below: &Arc<Node>) -> Outcome<Image> {
    let dir = std::env::temp_dir();
    let file = FileOpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(&dir)
        .and_then(FileStorage::from_file)
        .map_err(|error| {
            let dir = dir.display();
            Failure::new(format!(
                "Could not create temporary overlay in '{dir}': {error}"
            ))
        })?;
    let file: Arc<dyn Storage> = Arc::new(file);
    let create = CreateOptions {
        size: below.size(),
        ..CreateOptions::default()
    };
    let open = OpenOptions {
        writable: true,
        backing: Backing::Node(Arc::clone(below)),
        ..OpenOptions::default()
    };
    create
        .create(&file)
        .and_then(|()| Image::open(file, open))
        .map_err(|error| Failure::new(words(&error)))
}
