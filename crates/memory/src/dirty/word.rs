//! The two operations whose order decides whether a write is lost. `tests/orderings.rs` compiles
//! this file with loom's atomics and tries all their interleavings.

use super::{AtomicU64, Ordering};

/// Sets `bits`. The writer's data come before.
pub(super) fn mark(word: &AtomicU64, bits: u64) {
    // Even if the bits are set already: see `DirtyBitmap`.
    word.fetch_or(bits, Ordering::Release);
}

/// Takes and clears all bits. The taker's reads of the data come after.
pub(super) fn take(word: &AtomicU64) -> u64 {
    // Most words are 0. A mark that this load misses comes after the take, and stays.
    if word.load(Ordering::Relaxed) == 0 {
        0
    } else {
        word.swap(0, Ordering::AcqRel)
    }
}
