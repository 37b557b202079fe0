//! What passes in one direction, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use strata_virtio::{Error, Queue};

use super::worker::Served;

/// The counters of one direction, of all queue pairs.
#[derive(Debug, Default)]
pub(super) struct Flow {
    frames: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

/// What one call has moved. Bytes are those of frames without their headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
    pub(super) errors: u64,
}

impl Tally {
    pub(super) fn pass(&mut self, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
    }

    pub(super) fn drop_one(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn fail(&mut self) {
        self.errors += 1;
    }
}

impl Flow {
    /// Lets `serve` move frames; they are counted at once, and one interrupt tells of all of them.
    pub(super) fn batch(
        &self,
        queue: &mut Queue,
        serve: impl FnOnce(&mut Queue, &mut Tally) -> Result<Served, Error>,
    ) -> Result<Served, Error> {
        let mut tally = Tally::default();
        let served = serve(queue, &mut tally);
        self.add(tally);
        let served = served?;
        queue.notify()?;
        Ok(served)
    }

    pub(super) fn add(&self, tally: Tally) {
        self.frames.fetch_add(tally.frames, Ordering::Relaxed);
        self.bytes.fetch_add(tally.bytes, Ordering::Relaxed);
        self.dropped.fetch_add(tally.dropped, Ordering::Relaxed);
        self.errors.fetch_add(tally.errors, Ordering::Relaxed);
    }

    /// All that has passed.
    pub(super) fn read(&self) -> Tally {
        Tally {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}
