//! Rate limits without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::options::Limits;

const SECOND: u64 = 1_000_000_000;

/// What a disk may do at once after a pause: a tenth of a second's worth.
const BURST: u64 = SECOND / 10;

/// A token bucket as one number: the time at which it will be full again (the generic cell rate
/// algorithm). A request may go while that is less than a burst away, and moves it by its cost;
/// so one that is larger than the bucket goes too, and later ones pay for it.
#[derive(Debug, Default)]
struct Bucket {
    /// Tokens per second; 0 is no bound.
    rate: AtomicU64,
    /// Nanoseconds since the limiter's start.
    full_at: AtomicU64,
}

impl Bucket {
    fn cost(tokens: u64, rate: u64) -> u64 {
        let cost = u128::from(tokens) * u128::from(SECOND) / u128::from(rate.max(1));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Takes `tokens`, or says how many nanoseconds to wait.
    fn take(&self, tokens: u64, now: u64) -> Result<(), u64> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return Ok(());
        }
        let cost = Self::cost(tokens, rate);
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                (full_at <= now + BURST).then(|| full_at.max(now).saturating_add(cost))
            });
        taken.map(drop).map_err(|full_at| full_at - now - BURST)
    }

    fn give_back(&self, tokens: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let cost = Self::cost(tokens, rate);
            let _ = self
                .full_at
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                    Some(full_at.saturating_sub(cost))
                });
        }
    }

    fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
        self.full_at.store(0, Ordering::Relaxed);
    }
}

/// The limits of one disk, shared by its queues. They may be changed at any time.
#[derive(Debug)]
pub struct RateLimiter {
    start: Instant,
    requests: Bucket,
    bytes: Bucket,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(limits: Limits) -> Self {
        let limiter = Self {
            start: Instant::now(),
            requests: Bucket::default(),
            bytes: Bucket::default(),
        };
        limiter.set(limits);
        limiter
    }

    /// Other limits from now on, with full buckets.
    pub fn set(&self, limits: Limits) {
        self.requests.set(limits.iops);
        self.bytes.set(limits.bps);
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits {
            iops: self.requests.rate.load(Ordering::Relaxed),
            bps: self.bytes.rate.load(Ordering::Relaxed),
        }
    }

    /// Whether there is any limit: two loads, so that a disk without one does not ask the clock.
    fn limits_anything(&self) -> bool {
        self.requests.rate.load(Ordering::Relaxed) | self.bytes.rate.load(Ordering::Relaxed) != 0
    }

    /// Lets one request of `bytes` go.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&self, bytes: u64) -> Result<(), Duration> {
        if !self.limits_anything() {
            return Ok(());
        }
        self.admit_at(bytes, self.start.elapsed().as_nanos() as u64)
            .map_err(Duration::from_nanos)
    }

    fn admit_at(&self, bytes: u64, now: u64) -> Result<(), u64> {
        self.requests.take(1, now)?;
        self.bytes
            .take(bytes, now)
            .inspect_err(|_| self.requests.give_back(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that go in `seconds` when each that may go goes.
    fn run(limiter: &RateLimiter, bytes: u64, seconds: u64) -> u64 {
        let mut now = 0;
        let mut count = 0;
        while now < seconds * SECOND {
            match limiter.admit_at(bytes, now) {
                Ok(()) => count += 1,
                Err(wait) => now += wait.max(1),
            }
        }
        count
    }

    #[test]
    fn rates_hold_over_time() {
        let iops = RateLimiter::new(Limits { iops: 1000, bps: 0 });
        let count = run(&iops, 1 << 20, 10);
        assert!((10_000..=10_200).contains(&count), "{count}");

        let bps = RateLimiter::new(Limits {
            iops: 0,
            bps: 10 << 20,
        });
        let count = run(&bps, 64 << 10, 10);
        assert!((1600..=1640).contains(&count), "{count}");

        let both = RateLimiter::new(Limits {
            iops: 100,
            bps: 10 << 20,
        });
        let count = run(&both, 1 << 20, 10);
        assert!((100..=103).contains(&count), "{count}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_goes_and_is_paid_for() {
        let limiter = RateLimiter::new(Limits { iops: 0, bps: 1000 });
        assert_eq!(limiter.admit_at(5000, 0), Ok(()));
        assert_eq!(limiter.admit_at(1, 0), Err(5 * SECOND - BURST));
        assert_eq!(limiter.admit_at(1, 5 * SECOND), Ok(()));
    }

    #[test]
    fn what_one_bucket_refuses_costs_nothing_in_the_other() {
        let limiter = RateLimiter::new(Limits { iops: 10, bps: 1 });
        assert_eq!(limiter.admit_at(10, 0), Ok(()));
        for _ in 0..100 {
            assert!(limiter.admit_at(1, SECOND).is_err());
        }
        limiter.bytes.set(0);
        assert_eq!(limiter.admit_at(1, SECOND), Ok(()));
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        let limiter = RateLimiter::new(Limits { iops: 1, bps: 1 });
        assert_eq!(limiter.admit_at(u64::MAX, 0), Ok(()));
        assert!(limiter.admit_at(u64::MAX, SECOND).is_err());
        limiter.set(Limits {
            iops: u64::MAX,
            bps: u64::MAX,
        });
        assert_eq!(limiter.admit_at(u64::MAX, u64::MAX - BURST), Ok(()));
    }
}
