//! CPU time, and what else takes a system call.

use std::os::fd::RawFd;
use std::time::Duration;

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours.
    let result = unsafe { libc::clock_gettime(id, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Of all threads of this process.
pub(crate) fn process() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Of this thread.
pub(crate) fn thread() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Of another process.
pub(crate) fn of_process(pid: u32) -> Duration {
    let mut id = 0;
    // SAFETY: the number is ours.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut id) };
    assert_eq!(result, 0);
    clock(id)
}

/// Waits until a descriptor is readable; false if it is not in time.
pub(crate) fn wait_readable(fd: RawFd, time: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the structure is ours.
    unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as libc::c_int) == 1 }
}

/// The machine's load averages.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// KiB of this process's memory, shared pages in proportion.
pub(crate) fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
