//! Image locks: one process writes, or many read.
//!
//! Open-file-description locks on single bytes of the file, as QEMU takes them, so that either
//! side refuses what the other one has: byte 100 + n is locked by whoever uses permission n, byte
//! 200 + n by whoever does not share it. All locks are shared ones; a conflict is found by asking
//! whether an exclusive one could be had.

use std::fs::File;
use std::io;

use crate::sys;

const USED: i64 = 100;
const UNSHARED: i64 = 200;

/// Reading data that makes sense.
const READ: i64 = 0;
/// Writing.
const WRITE: i64 = 1;
/// Changing the size.
const RESIZE: i64 = 3;

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Access {
    fn used(self) -> &'static [i64] {
        match self {
            Self::Read => &[READ],
            Self::Write => &[READ, WRITE, RESIZE],
        }
    }

    /// Readers want the bytes to stay, writers want to be alone.
    fn unshared(self) -> &'static [i64] {
        &[WRITE, RESIZE]
    }
}

/// Locks `file` until its last descriptor is closed. False if somebody else's use conflicts.
pub(crate) fn lock(file: &File, access: Access) -> io::Result<bool> {
    let bytes = || {
        let used = access.used().iter().map(|bit| USED + bit);
        used.chain(access.unshared().iter().map(|bit| UNSHARED + bit))
    };
    for byte in bytes() {
        if !sys::lock_shared(file, byte)? {
            return Ok(false);
        }
    }
    // Taken first and asked afterwards: of two that come at once, at least one sees the other.
    let conflicts = access.used().iter().map(|bit| UNSHARED + bit);
    for byte in conflicts.chain(access.unshared().iter().map(|bit| USED + bit)) {
        if sys::locked_by_others(file, byte)? {
            bytes().try_for_each(|byte| sys::unlock(file, byte))?;
            return Ok(false);
        }
    }
    Ok(true)
}
