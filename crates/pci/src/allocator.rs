//! Addresses for BARs.

use std::ops::Range;

/// A window from which naturally aligned blocks are taken, the lowest first.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    window: Range<u64>,
    /// Ascending, without overlap.
    taken: Vec<Range<u64>>,
}

impl Allocator {
    pub(crate) fn new(window: Range<u64>) -> Self {
        Self {
            window,
            taken: Vec::new(),
        }
    }

    /// Takes `size` bytes, a power of two, at a multiple of `size`.
    pub(crate) fn take(&mut self, size: u64) -> Option<u64> {
        let mut at = self.window.start.checked_next_multiple_of(size)?;
        let mut index = 0;
        for (position, taken) in self.taken.iter().enumerate() {
            index = position;
            if at.checked_add(size)? <= taken.start {
                break;
            }
            at = taken.end.checked_next_multiple_of(size)?.max(at);
            index = position + 1;
        }
        let end = at.checked_add(size).filter(|end| *end <= self.window.end)?;
        self.taken.insert(index, at..end);
        Some(at)
    }

    /// Gives back what [`take`](Self::take) gave.
    pub(crate) fn give_back(&mut self, at: u64) {
        self.taken.retain(|taken| taken.start != at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_apart_and_come_again() {
        let mut allocator = Allocator::new(0x1000..0x9000);
        assert_eq!(allocator.take(0x1000), Some(0x1000));
        assert_eq!(allocator.take(0x4000), Some(0x4000));
        assert_eq!(allocator.take(0x1000), Some(0x2000));
        assert_eq!(allocator.take(0x1000), Some(0x3000));
        assert_eq!(allocator.take(0x1000), Some(0x8000));
        assert_eq!(allocator.take(0x10), None);
        allocator.give_back(0x2000);
        assert_eq!(allocator.take(0x2000), None);
        assert_eq!(allocator.take(0x800), Some(0x2000));
        assert_eq!(allocator.take(0x800), Some(0x2800));
    }

    #[test]
    fn nothing_overflows() {
        let mut allocator = Allocator::new(u64::MAX - 0x1fff..u64::MAX);
        assert_eq!(allocator.take(1 << 63), None);
        assert_eq!(allocator.take(0x1000), Some(u64::MAX - 0x1fff));
        assert_eq!(allocator.take(0x1000), None);
    }
}
