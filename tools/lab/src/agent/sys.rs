//! The calls that std has not: pseudo-terminals, signals and a clock that can be compared.

use std::ffi::{CStr, c_char, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

pub(crate) const SIGSTOP: u8 = 19;

const CLOCK_MONOTONIC: c_int = 1;

#[repr(C)]
#[derive(Default)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn unlockpt(fd: c_int) -> c_int;
    fn ptsname_r(fd: c_int, buf: *mut c_char, len: usize) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

/// Nanoseconds since level 1's boot: the clock whose multiples its timer ticks keep a distance to.
pub(crate) fn monotonic() -> i64 {
    let mut time = Timespec::default();
    // SAFETY: `time` is a writable timespec of x86-64 Linux; this clock is always there.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    time.seconds * 1_000_000_000 + time.nanoseconds
}

/// Sends a signal to a process, or to the process group `-pid`.
pub(crate) fn signal(pid: i32, signal: u8) -> io::Result<()> {
    // SAFETY: the call takes no memory.
    match unsafe { kill(pid, signal.into()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a pseudo-terminal: the controlling side, and the path of the other.
pub(crate) fn open_terminal(rows: u16, columns: u16) -> io::Result<(File, PathBuf)> {
    let master = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ptmx")?;
    let mut name = [0; 64];
    // SAFETY: the descriptor is open, and the call takes nothing else.
    let unlocked = unsafe { unlockpt(master.as_raw_fd()) };
    // SAFETY: `name` is writable for the length that is passed, and ends with a zero byte after
    // success.
    let named = unsafe { ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) };
    if unlocked != 0 || named != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: ptsname_r has written a string that ends within `name`.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    let path = PathBuf::from(name.to_str().map_err(io::Error::other)?);
    Command::new("stty")
        .arg("-F")
        .arg(&path)
        .args(["rows", &rows.to_string(), "columns", &columns.to_string()])
        .status()?;
    Ok((master, path))
}
