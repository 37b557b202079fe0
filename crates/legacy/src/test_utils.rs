//! Stand-ins for what the machine gives to devices.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::{Clock, Trigger};

/// An interrupt that counts how often it was raised. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct CountingTrigger {
    count: Arc<AtomicU64>,
    failing: Arc<AtomicBool>,
}

impl CountingTrigger {
    /// How often the interrupt was raised.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether raising it fails from now on.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }
}

impl Trigger for CountingTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(io::Error::other("told to fail"));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A clock that stands until it is moved. Clones move together.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now`, counted from the beginning of 1970 in UTC, up to the year 2554.
    pub fn new(now: Duration) -> Self {
        let clock = Self::default();
        clock.advance(now);
        clock
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
