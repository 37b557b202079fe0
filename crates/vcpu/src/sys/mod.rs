//! The crate's unsafe code: the shared run page, three ioctls that kvm-ioctls lacks or leaves
//! unsafe, and the signal mask of a vCPU thread.

#[cfg(feature = "test-utils")]
pub(crate) mod ram;

use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{KVMIO, kvm_run, kvm_xsave};
use kvm_ioctls::VcpuFd;
use libc::c_void;
use vmm_sys_util::errno::{self, errno_result};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);

const PAGE: usize = 4096;
const _: () = assert!(size_of::<kvm_run>() <= PAGE);

/// A second mapping of the first page of a vCPU's `kvm_run`.
///
/// It is separate from the one in [`VcpuFd`], so that another thread can set `immediate_exit`
/// while the vCPU's own thread holds its `VcpuFd` mutably.
#[derive(Debug)]
pub(crate) struct RunPage(NonNull<u8>);

// SAFETY: the mapping belongs to this value alone until drop and is only read by volatile loads
// or accessed through an atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(crate) fn map(vcpu: &VcpuFd) -> errno::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let addr = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(addr.cast::<u8>()) {
            Some(page) if addr != libc::MAP_FAILED => Ok(Self(page)),
            _ => errno_result(),
        }
    }

    /// Makes KVM_RUN return EINTR, once it has completed a pending access, until it is cleared.
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        // SAFETY: the offset lies within the page.
        let field = unsafe { self.0.add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: the byte is mapped as long as `self` lives, and is accessed atomically here and
        // by the kernel only.
        let flag = unsafe { AtomicU8::from_ptr(field.as_ptr()) };
        flag.store(u8::from(on), Ordering::SeqCst);
    }

    /// The size in bytes of one element of the port access that KVM_RUN returned with.
    pub(crate) fn io_size(&self) -> usize {
        usize::from(self.exit_field::<u8>(1))
    }

    /// `hardware_exit_reason` of KVM_EXIT_UNKNOWN.
    pub(crate) fn hardware_exit_reason(&self) -> u64 {
        self.exit_field(0)
    }

    /// `suberror` and the valid `data` words of KVM_EXIT_INTERNAL_ERROR.
    pub(crate) fn internal_error(&self) -> (u32, Vec<u64>) {
        const DATA_WORDS: u32 = 16;
        let words = self.exit_field::<u32>(4).min(DATA_WORDS);
        let data = (0..words as usize)
            .map(|i| self.exit_field(8 + 8 * i))
            .collect();
        (self.exit_field(0), data)
    }

    /// Reads from the union of exit details, which the kernel keeps at a fixed place in the page.
    fn exit_field<T: Copy>(&self, offset: usize) -> T {
        let at = offset_of!(kvm_run, __bindgen_anon_1) + offset;
        assert!(
            at + size_of::<T>() <= PAGE,
            "the exit details end with the page"
        );
        // SAFETY: in bounds by the assertion above.
        let field = unsafe { self.0.add(at) }.cast::<T>();
        // SAFETY: the page is mapped; T is one of the integers above, for which all bits are valid.
        unsafe { ptr::read_unaligned(field.as_ptr()) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `map` and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast::<c_void>(), PAGE) };
    }
}

/// Fills `area`, which must be as large as KVM_CAP_XSAVE2 says for the VM.
pub(crate) fn get_xsave2(vcpu: &VcpuFd, area: &mut [u8]) -> errno::Result<()> {
    // SAFETY: the kernel writes the VM's XSAVE size, for which the caller made room.
    match unsafe { ioctl_with_mut_ptr(vcpu, KVM_GET_XSAVE2(), area.as_mut_ptr()) } {
        0 => Ok(()),
        _ => errno_result(),
    }
}

/// Loads `area`, which must be as large as KVM_CAP_XSAVE2 says for the VM, and at least 4096 bytes.
pub(crate) fn set_xsave(vcpu: &VcpuFd, area: &[u8]) -> errno::Result<()> {
    // SAFETY: the kernel reads the VM's XSAVE size, which the caller's area has.
    match unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), area.as_ptr()) } {
        0 => Ok(()),
        _ => errno_result(),
    }
}

/// Sets IA32_MCG_CAP and with it the number of machine-check banks.
pub(crate) fn setup_mce(vcpu: &VcpuFd, mcg_cap: u64) -> errno::Result<()> {
    // SAFETY: the kernel reads one u64.
    match unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &mcg_cap) } {
        0 => Ok(()),
        _ => errno_result(),
    }
}

/// Blocks every signal on this thread but `open` and those of its own faults, so that signals to
/// the process reach the threads that handle them.
pub(crate) fn block_signals_except(open: libc::c_int) {
    let faults = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
    ];
    // SAFETY: sigset_t is plain data; sigfillset initialises it.
    let mut blocked: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `blocked` is a live sigset_t.
    unsafe { libc::sigfillset(&mut blocked) };
    for signal in faults.into_iter().chain([open]) {
        // SAFETY: as above.
        unsafe { libc::sigdelset(&mut blocked, signal) };
    }
    // SAFETY: changes the mask of the calling thread only; the old mask is not asked for. It
    // fails for an unknown `how` only.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, ptr::null_mut()) };
}
