//! What a disk has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making writes durable.
    Flush,
    /// Discarding.
    Discard,
    /// Writing zeroes without data.
    WriteZeroes,
}

const OPERATIONS: usize = 5;

/// Counters of one queue or one disk, added to by the workers without a lock.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    each: [Counter; OPERATIONS],
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
}

/// What was done of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OperationStats {
    /// Requests that succeeded.
    pub requests: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Requests that the host failed, whatever the guest was told.
    pub failed: u64,
    /// Requests that did not go straight from guest memory to the file: allocation,
    /// copy-on-write, compressed or encrypted data, buffers that O_DIRECT does not take.
    pub slow: u64,
}

/// What a disk has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stats {
    /// Reads.
    pub read: OperationStats,
    /// Writes.
    pub write: OperationStats,
    /// Flushes.
    pub flush: OperationStats,
    /// Discards.
    pub discard: OperationStats,
    /// Zeroes written without data.
    pub write_zeroes: OperationStats,
}

impl Counters {
    pub(crate) fn done(&self, operation: Operation, bytes: u64) {
        let counter = &self.each[operation as usize];
        counter.requests.fetch_add(1, Ordering::Relaxed);
        counter.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, operation: Operation) {
        self.each[operation as usize]
            .failed
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn slow(&self, operation: Operation) {
        self.each[operation as usize]
            .slow
            .fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, operation: Operation) -> OperationStats {
        let counter = &self.each[operation as usize];
        OperationStats {
            requests: counter.requests.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
            failed: counter.failed.load(Ordering::Relaxed),
            slow: counter.slow.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            read: self.read(Operation::Read),
            write: self.read(Operation::Write),
            flush: self.read(Operation::Flush),
            discard: self.read(Operation::Discard),
            write_zeroes: self.read(Operation::WriteZeroes),
        }
    }
}
