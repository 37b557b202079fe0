//! A log that a guest can not flood.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use std::sync::LazyLock;

/// Nanoseconds between two messages of one source.
const PAUSE: u64 = 100_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Lets ten messages a second through and counts the others: a guest that makes its disk fail can
/// do so as often as it likes.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// When the next message may go, in nanoseconds since `START`.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl LogLimit {
    pub(crate) fn error(&self, message: fmt::Arguments<'_>) {
        let now = START.elapsed().as_nanos() as u64;
        let next = self.next.load(Ordering::Relaxed);
        let mine = now >= next
            && self
                .next
                .compare_exchange(next, now + PAUSE, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.held_back.swap(0, Ordering::Relaxed) {
            0 => log::error!("{message}"),
            count => log::error!("{message} ({count} like it were not logged)"),
        }
    }
}
