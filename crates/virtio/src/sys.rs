//! The one place with unsafe code: buffers as the host's system calls take them.
#![allow(unsafe_code)]

/// Some bytes of guest memory as they lie in this process: one element of what readv(2), writev(2)
/// and io_uring take.
///
/// Holding one is harmless. Whoever gives it to the kernel answers for the guest memory staying
/// mapped until the kernel is done, and for [`Segments::mark_dirty`](crate::Segments::mark_dirty)
/// where the kernel wrote.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct IoVec(libc::iovec);

// SAFETY: The pointer is only a value here, nothing in this crate follows it; and guest memory is
// mapped in the process, not in a thread.
unsafe impl Send for IoVec {}

// SAFETY: As above; a shared reference only gives the values away.
unsafe impl Sync for IoVec {}

impl IoVec {
    pub(crate) fn new(base: *mut u8, len: usize) -> Self {
        Self(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        })
    }

    /// The address of the first byte.
    pub fn base(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Drops the first `count` bytes, at most [`len`](Self::len).
    pub(crate) fn advance(&mut self, count: usize) {
        let count = count.min(self.0.iov_len);
        self.0.iov_base = self.0.iov_base.wrapping_byte_add(count);
        self.0.iov_len -= count;
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.iov_len = self.0.iov_len.min(len);
    }

    /// The same elements for `libc` and `io_uring`.
    pub fn as_raw(vectors: &[Self]) -> &[libc::iovec] {
        // SAFETY: `IoVec` is a transparent wrapper of `iovec`, so the layout is that of a slice of
        // those; the lifetime is that of the argument.
        unsafe { std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len()) }
    }
}

/// Waits until `fd` can be read, or `time` is over. Signals do not end it: a fuzzer's clock is one.
#[cfg(feature = "test-utils")]
pub(crate) fn poll_readable(fd: std::os::fd::RawFd, time: std::time::Duration) -> bool {
    let end = std::time::Instant::now() + time;
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll` is one valid element and lives for the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left) };
        let interrupted =
            ready < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
        if !interrupted {
            return ready > 0;
        }
    }
}

#[cfg(all(test, feature = "test-utils"))]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use vmm_sys_util::eventfd::EventFd;
    use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

    use super::poll_readable;

    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    #[test]
    fn a_signal_does_not_end_a_wait() {
        register_signal_handler(SIGRTMIN(), nothing).unwrap();
        let event = EventFd::new(0).unwrap();
        let fd = event.as_raw_fd();
        let waiter = std::thread::spawn(move || poll_readable(fd, Duration::from_secs(10)));
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(10));
            waiter.kill(SIGRTMIN()).unwrap();
        }
        event.write(1).unwrap();
        assert!(waiter.join().unwrap(), "it ended before the event came");
    }
}
