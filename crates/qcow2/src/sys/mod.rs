//! The only unsafe code of this crate: system calls that std does not offer.
#![allow(unsafe_code)]

#[cfg(feature = "io-uring")]
pub(crate) mod uring;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

/// What Linux takes in one call (UIO_MAXIOV).
const MAX_VECTORS: usize = 1024;

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Runs a call again while a signal interrupts it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// One preadv; the count may be short.
pub(crate) fn read_vectored_at(
    file: &File,
    bufs: &mut [IoSliceMut<'_>],
    offset: u64,
) -> io::Result<usize> {
    let count = bufs.len().min(MAX_VECTORS) as libc::c_int;
    let offset = signed(offset)?;
    // SAFETY: IoSliceMut has the layout of iovec, and `bufs` borrows the memory for the call.
    retry(|| unsafe { libc::preadv(file.as_raw_fd(), bufs.as_mut_ptr().cast(), count, offset) })
}

/// One pwritev; the count may be short.
pub(crate) fn write_vectored_at(
    file: &File,
    bufs: &[IoSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let count = bufs.len().min(MAX_VECTORS) as libc::c_int;
    let offset = signed(offset)?;
    // SAFETY: IoSlice has the layout of iovec, and `bufs` borrows the memory for the call.
    retry(|| unsafe { libc::pwritev(file.as_raw_fd(), bufs.as_ptr().cast(), count, offset) })
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let (offset, len) = (signed(offset)?, signed(len)?);
    // SAFETY: the call takes no pointer, and the descriptor is open while `file` is borrowed.
    let done = retry(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } as isize);
    match done {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        other => other.map(drop),
    }
}

pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(
        file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        offset,
        len,
    )
}

pub(crate) fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, len)
}

pub(crate) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, 0, offset, len)
}

/// What offsets, lengths and addresses must be multiples of for O_DIRECT; None if the kernel (before
/// 6.1) or the file system does not tell.
pub(crate) fn direct_alignment(file: &File) -> Option<usize> {
    // SAFETY: all of the structure's fields are integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (path, flags) = (c"", libc::AT_EMPTY_PATH);
    // By its number: std names the function too, as one that may be missing, and then a static
    // program that is optimized as a whole is linked without it.
    //
    // SAFETY: the descriptor is open, the path is a C string, and the structure is ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            path.as_ptr(),
            flags,
            libc::STATX_DIOALIGN,
            &raw mut found,
        )
    };
    let told = result == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0;
    let alignment = found.stx_dio_mem_align.max(found.stx_dio_offset_align) as usize;
    (told && alignment.is_power_of_two() && found.stx_dio_offset_align > 0)
        .then_some(alignment.max(512))
}

/// What lies at an offset.
pub(crate) enum Hole {
    /// Data from the first to the second offset.
    Data(u64, u64),
    /// A hole up to the end.
    ToTheEnd,
    /// The file system can not tell.
    Unknown,
}

fn seek(file: &File, offset: i64, whence: libc::c_int) -> io::Result<u64> {
    // SAFETY: the call takes no pointer; nothing in this crate depends on the file position.
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(at).map_err(|_| io::Error::last_os_error())
}

pub(crate) fn seek_end(file: &File) -> io::Result<u64> {
    seek(file, 0, libc::SEEK_END)
}

pub(crate) fn seek_data(file: &File, offset: u64) -> io::Result<Hole> {
    let start = match seek(file, signed(offset)?, libc::SEEK_DATA) {
        Ok(start) => start,
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(Hole::ToTheEnd),
        Err(_) => return Ok(Hole::Unknown),
    };
    match seek(file, signed(start)?, libc::SEEK_HOLE) {
        Ok(end) if end > start => Ok(Hole::Data(start, end)),
        _ => Ok(Hole::Unknown),
    }
}
