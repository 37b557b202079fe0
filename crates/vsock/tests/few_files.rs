//! A program that connects while the host has no more open files. Those are of the whole process, which
//! is why this test has one of its own.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "device/guest.rs"]
mod guest;

use std::fs::File;
use std::time::Duration;

use guest::Guest;
use strata_vsock::op;

/// Time that this process has used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills in a struct that lives through the call.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(got, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_program_that_could_not_be_accepted_is_when_there_are_files_again() {
    let limit = libc::rlimit {
        rlim_cur: 256,
        rlim_max: 256,
    };
    // SAFETY: the limit lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let mut guest = Guest::new(8);
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    // One for the program, and none for the device.
    taken.pop();
    let program = guest.dial("CONNECT 1\n");
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(100), "it is busy: {used:?}");
    guest.hear_nothing();
    drop(taken);
    assert_eq!(guest.hear_op(op::REQUEST).dst_port, 1);
    drop(program);
}
