//! Flushes of a file in the kernel's page cache.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::slow::lock;

/// The flushes of one file, of which one at most is under way.
///
/// Pages that the kernel could not write, be it for an error of the drive or for want of room on it,
/// are clean to it afterwards, and one flush alone is told (fsync(2), and errseq_t in the kernel's
/// documentation). If another one counted, that comes later or was under way on another queue, what
/// is lost would pass for durable. So none counts any more, as with QEMU.
#[derive(Default)]
pub(super) struct Flushes {
    state: Mutex<State>,
    ended: Condvar,
}

/// Flushes are numbered in the order in which they begin.
#[derive(Default)]
struct State {
    begun: u64,
    under_way: bool,
    /// The last one that ended well.
    done: u64,
    /// One has failed.
    lossy: bool,
}

impl Flushes {
    /// Flushes by `flush`, or waits for a flush that began after this call: many that wait need one.
    ///
    /// # Errors
    /// That of `flush`, or that an earlier one has failed.
    pub(super) fn run(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        let wanted = state.begun + 1;
        while state.under_way {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.lossy {
            return Err(io::Error::other(
                "an earlier flush failed, so what was written before it may be lost: the disk \
                 must be opened anew",
            ));
        }
        if state.done >= wanted {
            return Ok(());
        }
        state.begun += 1;
        state.under_way = true;
        drop(state);
        let result = flush();
        let mut state = lock(&self.state);
        state.under_way = false;
        match result {
            Ok(()) => state.done = state.begun,
            Err(_) => state.lossy = true,
        }
        self.ended.notify_all();
        result
    }
}
