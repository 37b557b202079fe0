//! A storage whose flushes last.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use strata_qcow2::Storage;
use strata_qcow2::storage::MemoryStorage;

/// Nothing here takes this long unless it never ends.
const LIMIT: Duration = Duration::from_secs(60);

/// A file that stops in a flush until it is let go.
pub(crate) struct Stopping {
    file: MemoryStorage,
    /// Flushes that go through before one stops.
    plan: Mutex<Option<u32>>,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stopping {
    /// A file of these bytes, whose flushes go through.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            file: MemoryStorage::new(bytes),
            plan: Mutex::new(None),
            stopped: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Waits until a flush is stopped; false if there was none.
    pub(crate) fn wait(&self) -> bool {
        let stopped = self.stopped.lock().unwrap();
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, LIMIT, |stopped| !*stopped)
            .unwrap();
        *stopped
    }

    /// Lets so many flushes through and stops the next one.
    pub(crate) fn stop_after(&self, flushes: u32) {
        *self.plan.lock().unwrap() = Some(flushes);
    }

    /// How many flushes go through before one stops; none if one has stopped, or none shall.
    pub(crate) fn left(&self) -> Option<u32> {
        *self.plan.lock().unwrap()
    }

    /// Lets the flush go on that is stopped.
    pub(crate) fn let_go(&self) {
        *self.stopped.lock().unwrap() = false;
        self.changed.notify_all();
    }
}

impl Storage for Stopping {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        let due = *plan == Some(0);
        *plan = plan.and_then(|left| left.checked_sub(1));
        drop(plan);
        if due {
            let mut stopped = self.stopped.lock().unwrap();
            *stopped = true;
            self.changed.notify_all();
            let _gone = self.changed.wait_while(stopped, |s| *s).unwrap();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }
}
