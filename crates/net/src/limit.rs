//! Rate limits: token buckets without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NANOS: u64 = 1_000_000_000;
/// How much may pass at once after a pause, as time at the full rate.
const BURST: u64 = NANOS / 10;

/// What may pass in one direction, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes, headers not counted. `None`: no limit.
    pub bytes: Option<u64>,
    /// Frames. `None`: no limit.
    pub frames: Option<u64>,
}

/// A bucket of tokens, kept as the time at which it will be full again (the generic cell rate
/// algorithm): one number, so that queue pairs share it without a lock. It holds a tenth of a
/// second's worth.
#[derive(Debug)]
struct Bucket {
    /// Tokens per second.
    rate: u64,
    /// Nanoseconds after the limiter's epoch.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            full_at: AtomicU64::new(0),
        }
    }

    /// Nanoseconds until something may pass: 0 for now.
    fn wait(&self, now: u64) -> u64 {
        let full_at = self.full_at.load(Ordering::Relaxed);
        full_at.saturating_sub(now).saturating_sub(BURST)
    }

    fn take(&self, now: u64, tokens: u64) {
        let cost = u128::from(tokens) * u128::from(NANOS) / u128::from(self.rate);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let later = |full_at: u64| Some(full_at.max(now).saturating_add(cost));
        // It always succeeds: `later` never says `None`.
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

/// The limiter of one direction of a card.
#[derive(Debug)]
pub(crate) struct Limiter {
    epoch: Instant,
    bytes: Option<Bucket>,
    frames: Option<Bucket>,
}

impl Limiter {
    /// `None` where nothing is limited.
    pub(crate) fn new(limit: RateLimit) -> Option<Self> {
        if limit == RateLimit::default() {
            return None;
        }
        Some(Self {
            epoch: Instant::now(),
            bytes: limit.bytes.map(Bucket::new),
            frames: limit.frames.map(Bucket::new),
        })
    }

    /// What it was made of.
    pub(crate) fn limit(&self) -> RateLimit {
        RateLimit {
            bytes: self.bytes.as_ref().map(|bucket| bucket.rate),
            frames: self.frames.as_ref().map(|bucket| bucket.rate),
        }
    }

    /// How long to wait before a frame may pass; `None` if it may now. The last frame before a wait
    /// may take more than there is: its bytes are not known before.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let now = self.now();
        let buckets = self.bytes.iter().chain(&self.frames);
        let nanos = buckets.map(|bucket| bucket.wait(now)).max().unwrap_or(0);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    pub(crate) fn take(&self, bytes: usize) {
        let now = self.now();
        if let Some(bucket) = &self.bytes {
            bucket.take(now, bytes as u64);
        }
        if let Some(bucket) = &self.frames {
            bucket.take(now, 1);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_in_a_second_is_the_rate() {
        let bucket = Bucket::new(1_000_000);
        let (mut now, mut passed) = (0, 0);
        while now < 10 * NANOS {
            match bucket.wait(now) {
                0 => {
                    bucket.take(now, 1500);
                    passed += 1500;
                }
                wait => now += wait,
            }
        }
        // Ten seconds, the first tenth in advance, and one frame that may overdraw.
        assert!((10_000_000..10_103_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_pause_fills_the_bucket_only_to_its_brim() {
        let bucket = Bucket::new(1000);
        let now = 100 * NANOS;
        let mut passed = 0;
        while bucket.wait(now) == 0 {
            bucket.take(now, 1);
            passed += 1;
        }
        assert_eq!(passed, 101);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let bucket = Bucket::new(1);
        bucket.take(u64::MAX - 1, u64::MAX);
        assert_eq!(bucket.wait(u64::MAX), 0);
        bucket.take(0, u64::MAX);
        assert!(bucket.wait(0) > 0);
        let bucket = Bucket::new(0);
        bucket.take(0, 1);
        assert!(bucket.wait(0) > 0);
    }

    #[test]
    fn no_limit_is_no_limiter() {
        assert!(Limiter::new(RateLimit::default()).is_none());
    }
}
