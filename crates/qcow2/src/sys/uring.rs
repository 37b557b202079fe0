//! One request at a time through an io_uring.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

/// A ring of which its owner uses one entry at a time.
pub(crate) struct Ring(IoUring);

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        IoUring::new(4).map(Self)
    }

    /// Submits a request and waits for its end.
    ///
    /// # Safety
    /// What the entry points to must live until this returns.
    unsafe fn run(&mut self, entry: &squeue::Entry) -> io::Result<usize> {
        loop {
            // SAFETY: by this function's contract the entry's memory outlives the request, which
            // has ended when this function returns; the ring has room, as it is empty.
            unsafe { self.0.submission().push(entry) }
                .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
            let result = self.complete()?;
            match usize::try_from(result) {
                Ok(count) => return Ok(count),
                Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => {}
                Err(_) => return Err(io::Error::from_raw_os_error(-result)),
            }
        }
    }

    fn complete(&mut self) -> io::Result<i32> {
        loop {
            match self.0.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if let Some(entry) = self.0.completion().next() {
                return Ok(entry.result());
            }
        }
    }

    /// One vectored read; the count may be short.
    pub(crate) fn read(
        &mut self,
        file: &File,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let count = bufs.len().min(super::MAX_VECTORS) as u32;
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Readv::new(fd, bufs.as_mut_ptr().cast(), count)
            .offset(offset)
            .build();
        // SAFETY: IoSliceMut has the layout of iovec, and `bufs` is borrowed until the end.
        unsafe { self.run(&entry) }
    }

    /// One vectored write; the count may be short.
    pub(crate) fn write(
        &mut self,
        file: &File,
        bufs: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let count = bufs.len().min(super::MAX_VECTORS) as u32;
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Writev::new(fd, bufs.as_ptr().cast(), count)
            .offset(offset)
            .build();
        // SAFETY: IoSlice has the layout of iovec, and `bufs` is borrowed until the end.
        unsafe { self.run(&entry) }
    }

    /// fdatasync.
    pub(crate) fn flush(&mut self, file: &File) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build();
        // SAFETY: the entry points to no memory.
        unsafe { self.run(&entry) }.map(drop)
    }
}
