//! The system calls and the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use crate::Pages;

/// Bytes at both ends of a mapping that fault when touched.
const GUARD: usize = 4096;

/// Which memory a [`Mapping`] shows.
pub(crate) enum Source<'a> {
    Anonymous(Pages),
    /// Writes go to the file.
    Shared(&'a File, u64),
    /// Writes stay in this process.
    Private(&'a File, u64),
}

/// Advice to the kernel about a part of a mapping.
#[derive(Clone, Copy)]
pub(crate) enum Advice {
    HugePages,
    DontNeed,
    DontDump,
}

/// Memory mapped for reading and writing, between guard pages, and unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    reservation: *mut u8,
    reserved: usize,
    base: *mut u8,
    len: usize,
}

// SAFETY: the pointers are to memory that belongs to the mapping, not to a thread; they are given
// out only as addresses and as volatile slices.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` gives no `&mut` and no reference into the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at an address that is congruent to `congruent` modulo `align`, a power of
    /// two. `len` and `align` are multiples of the page size of `source`.
    pub(crate) fn new(
        source: &Source<'_>,
        len: usize,
        align: usize,
        congruent: u64,
    ) -> io::Result<Self> {
        let too_long = || io::Error::from_raw_os_error(libc::ENOMEM);
        let reserved = len
            .checked_add(align)
            .and_then(|sum| sum.checked_add(2 * GUARD))
            .ok_or_else(too_long)?;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches no other memory.
        let reservation = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserved,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reservation == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reservation = reservation.cast::<u8>();
        let first = reservation.addr() + GUARD;
        let ahead = (congruent as usize).wrapping_sub(first) & (align - 1);
        let base = reservation.wrapping_add(GUARD + ahead);
        if let Err(error) = place(base, len, source) {
            // A failed MAP_FIXED may have unmapped the range, and another thread may have mapped
            // something there since. So the range stays as it is; it has no memory.
            unmap(reservation, base.addr() - reservation.addr());
            let end = base.wrapping_add(len);
            unmap(end, reservation.addr() + reserved - end.addr());
            return Err(error);
        }
        Ok(Self {
            reservation,
            reserved,
            base,
            len,
        })
    }

    /// The address of the first byte.
    #[inline]
    pub(crate) fn addr(&self) -> *mut u8 {
        self.base
    }

    /// The `count` bytes from `offset`, or nothing if they are not all inside. Writes to them are
    /// noted in `bitmap`.
    #[inline]
    pub(crate) fn slice<B: BitmapSlice>(
        &self,
        offset: usize,
        count: usize,
        bitmap: B,
    ) -> Option<VolatileSlice<'_, B>> {
        if offset.checked_add(count)? > self.len {
            return None;
        }
        let addr = self.base.wrapping_add(offset);
        // SAFETY: the range lies in the mapping, which lives as long as the borrow of `self`, and
        // all access to it is volatile.
        Some(unsafe { VolatileSlice::with_bitmap(addr, count, bitmap, None) })
    }

    /// Advises the kernel about the `len` bytes from `offset`, both multiples of the page size.
    pub(crate) fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let advice = match advice {
            Advice::HugePages => libc::MADV_HUGEPAGE,
            Advice::DontNeed => libc::MADV_DONTNEED,
            Advice::DontDump => libc::MADV_DONTDUMP,
        };
        let addr = self.base.wrapping_add(offset).cast();
        // SAFETY: the range lies in the mapping. The advice may change its bytes, which nobody
        // holds a reference to.
        check(unsafe { libc::madvise(addr, len, advice) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.reservation, self.reserved);
    }
}

/// Maps `source` over the `len` bytes at `base`, which lie in a reservation of the caller's.
fn place(base: *mut u8, len: usize, source: &Source<'_>) -> io::Result<()> {
    let (flags, fd, offset) = match source {
        // What is not reserved fails with SIGBUS at first touch if the hugetlb pool is empty by
        // then; small pages are counted by the host's overcommit, not by reserving them all.
        Source::Anonymous(pages) if pages.is_hugetlb() => (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size_flag(*pages),
            -1,
            0,
        ),
        Source::Anonymous(_) => (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        ),
        Source::Shared(file, offset) => (libc::MAP_SHARED, file.as_raw_fd(), *offset),
        Source::Private(file, offset) => (
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            *offset,
        ),
    };
    let offset =
        i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: MAP_FIXED replaces a part of the caller's reservation, which nothing else uses.
    let at = unsafe { libc::mmap(base.cast(), len, prot, flags | libc::MAP_FIXED, fd, offset) };
    if at == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn unmap(addr: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: the caller owns the range, and no borrow of it is left. Failing would leak it.
        unsafe { libc::munmap(addr.cast(), len) };
    }
}

/// The page size of a hugetlb mapping, in the place that it has for mmap and for memfd_create.
fn size_flag(pages: Pages) -> i32 {
    (pages.size().trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32
}

/// Makes a memory file of `size` bytes that can not be resized.
pub(crate) fn memory_file(pages: Pages, size: u64) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if pages.is_hugetlb() {
        flags |= libc::MFD_HUGETLB | size_flag(pages) as libc::c_uint;
    }
    // SAFETY: the name is a C string and lives through the call.
    let fd: RawFd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), flags) };
    check(fd)?;
    // SAFETY: the descriptor is new and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // A file that another process could shorten would end this one by SIGBUS.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

/// Frees the `len` bytes from `offset` of a memory file; they read as zeroes afterwards.
pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = i64::try_from(offset).ok().zip(i64::try_from(len).ok());
    let (offset, len) = range.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call takes a descriptor and integers. It changes bytes of the file, which nobody
    // holds a reference to.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Lets every thread of this process pass a full memory barrier before it returns.
pub(crate) fn barrier_on_all_threads() -> io::Result<()> {
    for command in [
        libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
        libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
    ] {
        // SAFETY: the call takes integers and touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Bytes of a page of the host.
pub(crate) fn host_page_size() -> u64 {
    // SAFETY: the call takes an integer and touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(0)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
