//! The system calls that no crate in use wraps: all of this crate's unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// Signals whose default action ends the process at once, from within its own code.
const FATAL: [libc::c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGQUIT,
];

/// Puts the terminal on standard input into raw mode. The first call remembers how it was, and
/// arranges that a fatal signal puts it back.
pub(crate) fn terminal_raw() -> io::Result<()> {
    let mut current = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `current` is a writable termios; tcgetattr fills it or fails.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, current.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded, so it has initialized all of `current`.
    let current = unsafe { current.assume_init() };
    if SAVED.set(current).is_ok() {
        for signal in FATAL {
            restore_before(signal);
        }
    }
    let mut raw = current;
    // SAFETY: `raw` is an initialized termios, which cfmakeraw only changes.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    // SAFETY: `raw` is an initialized termios that outlives the call.
    if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts the terminal back as it was before the first [`terminal_raw`]. Async-signal-safe.
pub(crate) fn terminal_restore() {
    if let Some(saved) = SAVED.get() {
        // SAFETY: `saved` is an initialized termios; tcsetattr is async-signal-safe (POSIX.1).
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
}

/// Columns and rows of the terminal on standard input, if it is one and knows them.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes one winsize, or fails.
    let status = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: a winsize is four numbers, initialized as zeroes.
    let size = unsafe { size.assume_init() };
    (status == 0 && size.ws_col != 0).then_some((size.ws_col, size.ws_row))
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    terminal_restore();
    // SAFETY: raise is async-signal-safe; SA_RESETHAND has put the default action back, so that
    // the signal ends the process once this handler returns.
    unsafe { libc::raise(signal) };
}

fn restore_before(signal: libc::c_int) {
    // SAFETY: an all-zero sigaction is a valid one: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = restore_and_die as *const () as usize;
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: `action` is initialized, and its handler calls only async-signal-safe functions.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Blocks `signals` in this thread (and those it starts), and returns a descriptor that reads
/// them instead.
pub(crate) fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has initialized it.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: `set` is initialized; a bad signal number only fails.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: `set` is initialized, and the old mask is not asked for.
    let status =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status));
    }
    // SAFETY: `set` is initialized; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next pending signal of a descriptor made by [`signal_fd`]; `None` when there is none.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<libc::c_int> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is writable and `size` bytes long.
    let read = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if usize::try_from(read) != Ok(size) {
        return None;
    }
    // SAFETY: signalfd wrote a whole siginfo.
    let info = unsafe { info.assume_init() };
    libc::c_int::try_from(info.ssi_signo).ok()
}

/// Reads from standard input without std's buffer, so that what was not asked for stays in the
/// terminal's queue.
pub(crate) fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    let read = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Calls `f` with a file mode creation mask, which is the whole process's: no other thread may
/// make files meanwhile.
pub(crate) fn with_umask<R>(mask: libc::mode_t, f: impl FnOnce() -> R) -> R {
    // SAFETY: umask takes any mask and can not fail.
    let before = unsafe { libc::umask(mask) };
    let result = f();
    // SAFETY: as before.
    unsafe { libc::umask(before) };
    result
}

/// Bytes that nobody can foretell.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is writable for its whole length. So short a read is never cut, and without
    // flags it does not fail (getrandom(2)).
    unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
    bytes
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("descriptor out of range"))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller passes what a system call that makes descriptors has just returned, so
    // nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A duplicate, closed on exec, of a descriptor that this process was started with.
pub(crate) fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number, and fails for one that is no descriptor.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// Whether this process may make a userfaultfd that also handles the kernel's own faults (as
/// those of KVM are).
pub(crate) fn userfaultfd_probe() -> io::Result<()> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: userfaultfd takes flags by value and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }).map(drop)
}

/// Whether this process may make an io_uring.
pub(crate) fn io_uring_probe() -> io::Result<()> {
    // `struct io_uring_params` is 120 bytes, which must be zero for a plain ring.
    let mut params = [0_u64; 15];
    // SAFETY: `params` is as large and aligned as the kernel's structure, and writable.
    owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) }).map(drop)
}

/// The soft limit of `resource`; `None` when there is no limit (or none that can be read).
pub(crate) fn soft_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is a writable rlimit.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Makes `region` guest memory of `vm`.
///
/// The caller's region must be that of a mapping that outlives the machine's vCPUs: see
/// `machine::build`, where a machine's fields are dropped in that order.
pub(crate) fn set_memory_region(
    vm: &kvm_ioctls::VmFd,
    region: kvm_bindings::kvm_userspace_memory_region,
) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the region is a part of a `strata_memory::GuestRam`: mapped, and kept until after
    // the last vCPU is gone.
    unsafe { vm.set_user_memory_region(region) }
}

unsafe extern "C" {
    // The linker's names for the first byte of the program and the first behind its code.
    static __executable_start: u8;
    static etext: u8;
}

/// Gives the pages of the program's code and constants back to the page cache, and those of freed
/// allocations to the system. Code that is still needed comes back with the next access, which
/// finds it there.
///
/// Most of a monitor's code runs once, before its guest starts: arguments, configuration, the
/// kernel's file format. It would stay mapped, two thirds of what the process occupies beside its
/// guest's memory. A start that unpacks a kernel has also freed megabytes, of which malloc would keep
/// what lies between allocations that live on.
pub(crate) fn drop_startup_memory() {
    let start = &raw const __executable_start;
    let end = (&raw const etext).addr() & !(PAGE - 1);
    let len = end.saturating_sub(start.addr());
    // SAFETY: from the first byte to `etext` the program is mapped from its file, privately and
    // not writable, so that what is dropped is read again from the file as it was.
    unsafe { libc::madvise(start.cast_mut().cast(), len, libc::MADV_DONTNEED) };
    // SAFETY: malloc_trim touches only memory that malloc holds as free.
    unsafe { libc::malloc_trim(0) };
}

const PAGE: usize = 4096;
