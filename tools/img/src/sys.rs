//! The only unsafe code of this crate: system calls that std does not offer.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

static USR1: AtomicBool = AtomicBool::new(false);

extern "C" fn on_usr1(_: libc::c_int) {
    USR1.store(true, Ordering::Relaxed);
}

/// Makes SIGUSR1 ask for the progress instead of ending the program.
pub(crate) fn catch_usr1() {
    let handler: extern "C" fn(libc::c_int) = on_usr1;
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
}

/// Whether SIGUSR1 came since [`take_usr1`] was last called.
pub(crate) fn usr1() -> bool {
    USR1.load(Ordering::Relaxed)
}

/// The same, and forgets it.
pub(crate) fn take_usr1() -> bool {
    usr1() && USR1.swap(false, Ordering::Relaxed)
}

/// Sends a signal to this thread.
pub(crate) fn raise(signal: i32) {
    // SAFETY: raise takes no pointer.
    unsafe { libc::raise(signal) };
}

/// Year, month, day, hour, minute and second of a time in the local time zone.
pub(crate) fn local_time(seconds: i64) -> [i32; 6] {
    // SAFETY: all bytes zero is a valid tm: its pointer may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    let done = unsafe { libc::localtime_r(&seconds, &mut parts) };
    if done.is_null() {
        return [1970, 1, 1, 0, 0, 0];
    }
    let (year, month) = (parts.tm_year.saturating_add(1900), parts.tm_mon + 1);
    [
        year,
        month,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
    ]
}

/// Byte of a file that stands for using a permission, and of the one for not sharing it.
const USED: i64 = 100;
const UNSHARED: i64 = 200;
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Claims `file` by the lock bytes that QEMU and this program agree on: readers share it with
/// readers, a writer shares it with nobody but those who force it.
///
/// The locks end when the file is closed. Err names the lock that another process holds.
pub(crate) fn lock(file: &File, write: bool, force_share: bool) -> Result<(), String> {
    if force_share {
        return Ok(());
    }
    let names = [
        (CONSISTENT_READ, "consistent read"),
        (WRITE, "\"write\""),
        (RESIZE, "resize"),
    ];
    let used: &[i64] = if write {
        &[CONSISTENT_READ, WRITE, RESIZE]
    } else {
        &[CONSISTENT_READ]
    };
    for permission in used {
        set_lock(file, USED + permission);
    }
    // Neither readers nor writers bear another writer.
    for permission in [WRITE, RESIZE] {
        set_lock(file, UNSHARED + permission);
    }
    for (permission, name) in names {
        let refused = used.contains(&permission) && is_locked(file, UNSHARED + permission);
        let taken = permission != CONSISTENT_READ && is_locked(file, USED + permission);
        if refused || taken {
            let name = if taken && !write {
                "shared \"write\""
            } else {
                name
            };
            return Err(name.to_owned());
        }
    }
    Ok(())
}

fn byte_lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// A file system without locks leaves the file unclaimed, as QEMU does.
fn set_lock(file: &File, byte: i64) {
    let lock = byte_lock(libc::F_RDLCK, byte);
    // SAFETY: the descriptor is open while `file` is borrowed, and `lock` outlives the call.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
}

/// Whether another open file description holds the byte.
fn is_locked(file: &File, byte: i64) -> bool {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open while `file` is borrowed, and `lock` outlives the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    done == 0 && lock.l_type != libc::F_UNLCK as libc::c_short
}
