//! A file of a chain, with its name.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_qcow2::Storage;

use crate::log_limit::LogLimit;

/// A storage whose failures are logged with the file's name and the offset, once, at the place
/// where they happen: whoever passes them on need not know the file.
pub(crate) struct HostFile {
    inner: Arc<dyn Storage>,
    path: PathBuf,
    log: LogLimit,
    /// Holds the file's locks until the storage is dropped.
    _lock: Option<File>,
}

impl HostFile {
    pub(crate) fn new(inner: Arc<dyn Storage>, path: &Path, lock: Option<File>) -> Self {
        Self {
            inner,
            path: path.to_path_buf(),
            log: LogLimit::default(),
            _lock: lock,
        }
    }

    /// Says in the log what failed.
    pub(crate) fn report(&self, action: &str, offset: u64, len: u64, error: &io::Error) {
        let path = self.path.display();
        self.log.error(format_args!(
            "cannot {action} {len} bytes at offset {offset:#x} of {path}: {error}"
        ));
    }

    /// Whether what is written waits in the kernel's page cache for a flush; not so with O_DIRECT.
    pub(crate) fn is_cached(&self) -> bool {
        self.inner.as_fd().is_some() && self.inner.alignment() == 1
    }

    fn told<T>(&self, action: &str, offset: u64, len: u64, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.report(action, offset, len, error))
    }
}

impl Storage for HostFile {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let result = self.inner.read_vectored_at(bufs, offset);
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.told("read", offset, len, result)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.told(
            "write",
            offset,
            len,
            self.inner.write_vectored_at(bufs, offset),
        )
    }

    fn flush(&self) -> io::Result<()> {
        self.told("flush", 0, 0, self.inner.flush())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.told("resize to", 0, len, self.inner.set_len(len))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.told("discard", offset, len, self.inner.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.told(
            "zero",
            offset,
            len,
            self.inner.write_zeroes(offset, len, unmap),
        )
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.told("reserve", offset, len, self.inner.allocate(offset, len))
    }

    fn grows_with_zeroes(&self) -> bool {
        self.inner.grows_with_zeroes()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.inner.next_data(offset)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }
}
