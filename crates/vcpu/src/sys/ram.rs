//! Guest memory of the test machine.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use libc::c_void;
use vmm_sys_util::errno::{self, errno_result};

/// Anonymous memory, which a VM sees at guest-physical address 0.
#[derive(Debug)]
pub(crate) struct Ram {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is only accessed by copies through raw pointers, never by references.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Maps `len` bytes, a multiple of the page size.
    pub(crate) fn map(len: usize) -> errno::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let addr = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        match NonNull::new(addr.cast::<u8>()) {
            Some(start) if addr != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => errno_result(),
        }
    }

    /// Puts all of it into the first memory slot of `vm`, which must not outlive the memory.
    pub(crate) fn attach(self: &Arc<Self>, vm: &VmFd) -> errno::Result<()> {
        let region = kvm_userspace_memory_region {
            memory_size: self.len as u64,
            userspace_addr: self.start.as_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the region is mapped, and the caller keeps it so for the VM's life.
        unsafe { vm.set_user_memory_region(region) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `data` to `gpa`; false if it does not fit.
    pub(crate) fn write(&self, gpa: u64, data: &[u8]) -> bool {
        let Some(at) = self.place(gpa, data.len()) else {
            return false;
        };
        // SAFETY: `place` checked that the range is inside of the mapping.
        let to = unsafe { self.start.add(at) };
        // SAFETY: as above; `data` is no guest memory, so the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to.as_ptr(), data.len()) };
        true
    }

    /// Copies from `gpa` to `out`; false if it reaches beyond the end.
    pub(crate) fn read(&self, gpa: u64, out: &mut [u8]) -> bool {
        let Some(at) = self.place(gpa, out.len()) else {
            return false;
        };
        // SAFETY: `place` checked that the range is inside of the mapping.
        let from = unsafe { self.start.add(at) };
        // SAFETY: as above; `out` is no guest memory, so the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) };
        true
    }

    fn place(&self, gpa: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(gpa).ok()?;
        (at.checked_add(len)? <= self.len).then_some(at)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
    }
}
