//! The balloon from outside of its guest.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use strata_virtio::ConfigInterrupt;
use vmm_sys_util::eventfd::EventFd;

use crate::PAGE;
use crate::stats::Stats;

/// What the device, its worker and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Pages that the guest should give.
    pub(crate) target: AtomicU32,
    /// Pages that the guest says it has given.
    pub(crate) actual: AtomicU32,
    pub(crate) change: OnceLock<ConfigInterrupt>,
    /// Asks the worker for statistics.
    pub(crate) ask: EventFd,
    pub(crate) stats: Mutex<(u64, Stats)>,
    pub(crate) discarded: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// Says how large the balloon should be, and asks how it is.
#[derive(Clone, Debug)]
pub struct BalloonHandle(pub(crate) Arc<Shared>);

impl BalloonHandle {
    /// Asks the guest to give `bytes` of its memory, rounded down to 4 KiB; at most 16 TiB. It does
    /// so in its own time, or never.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        let set = || self.0.target.store(pages, Ordering::Release);
        match self.0.change.get() {
            Some(change) => change.change(set),
            None => set(),
        }
    }

    /// Bytes that the guest is asked for.
    pub fn target(&self) -> u64 {
        u64::from(self.0.target.load(Ordering::Acquire)) * PAGE
    }

    /// Bytes that the guest says it has given.
    pub fn actual(&self) -> u64 {
        u64::from(self.0.actual.load(Ordering::Acquire)) * PAGE
    }

    /// Bytes that went back to the host in all, by inflating and by reporting.
    pub fn discarded(&self) -> u64 {
        self.0.discarded.load(Ordering::Relaxed)
    }

    /// How often the host refused to take pages back.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Asks the guest for statistics; [`stats`](Self::stats) has them when it has answered.
    ///
    /// # Errors
    /// Where the worker can not be told.
    pub fn request_stats(&self) -> io::Result<()> {
        self.0.ask.write(1)
    }

    /// The last statistics, and how often the guest has given any.
    pub fn stats(&self) -> (u64, Stats) {
        *self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
