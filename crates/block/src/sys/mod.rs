//! The only unsafe code of this crate: file locks and io_uring on guest memory.
#![allow(unsafe_code)]

mod ring;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub(crate) use ring::{Completion, Direction, Event, Ring, SlotId};

/// Whether a file is readable now.
pub(crate) fn is_readable(file: &impl AsRawFd) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the structure is ours, there is one, and the call does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

fn byte_lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // Must be 0 for open-file-description locks.
        l_pid: 0,
    }
}

fn set_lock(file: &File, kind: libc::c_int, byte: i64) -> io::Result<()> {
    let lock = byte_lock(kind, byte);
    // SAFETY: the descriptor is open, and the kernel only reads the structure during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a shared lock on one byte. False if somebody holds an exclusive one.
pub(crate) fn lock_shared(file: &File, byte: i64) -> io::Result<bool> {
    match set_lock(file, libc::F_RDLCK, byte) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Gives the lock on one byte up.
pub(crate) fn unlock(file: &File, byte: i64) -> io::Result<()> {
    set_lock(file, libc::F_UNLCK, byte)
}

/// Whether another open file description holds any lock on one byte.
pub(crate) fn locked_by_others(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open, and the structure is ours and alive during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } {
        0 => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        _ => Err(io::Error::last_os_error()),
    }
}
