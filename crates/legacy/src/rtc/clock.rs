use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a device takes the time from.
pub trait Clock {
    /// The time in UTC since the beginning of 1970.
    fn now(&self) -> Duration;
}

/// The host's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}
