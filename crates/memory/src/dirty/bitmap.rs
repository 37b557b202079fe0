use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence, fence};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::{PAGES_PER_WORD, word, words_for};
use crate::PAGE_SIZE;

/// The written pages of one region, marked by many threads and taken by one.
///
/// While tracking is off, a mark costs one relaxed load, and there are no bits. The bits, one per
/// page of 4 KiB, are allocated when tracking first starts and kept.
///
/// # Why no write is lost
///
/// A writer writes its data and marks the page afterwards: `vm-memory` does so, and so must those
/// who write through [`Region::host_addr`](crate::Region::host_addr). The taker clears the bits and
/// reads the pages afterwards.
///
/// - *A mark and a take of one bit.* Both are read-modify-writes of one word, so one comes first.
///   If it is the mark (release), the take (acquire) sees it and the data before it. If it is the
///   take, the bit stays set for the next take. For this reason a mark never looks first whether
///   the bit is set already: that look may come before its own data are visible, and see a bit
///   that is then taken together with the page's old content.
/// - *A mark and the start of tracking.* A writer's data may still be in its store buffer while it
///   reads that tracking is off. The start sets the flag and then lets every thread of the process
///   pass a full barrier (membarrier). Whoever read "off" did so before the barrier, so its data are
///   visible to all that the starter reads afterwards; who reads after the barrier reads "on".
#[derive(Debug)]
pub struct DirtyBitmap {
    tracking: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
    /// Bytes that the bitmap describes.
    size: u64,
}

impl DirtyBitmap {
    /// A bitmap for `size` bytes, with tracking off.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            tracking: AtomicBool::new(false),
            words: OnceLock::new(),
            size,
        }
    }

    /// Clears all bits and lets writers mark. The caller must then pass a barrier on all threads.
    pub(crate) fn start(&self) {
        let allocate = || {
            (0..words_for(self.size))
                .map(|_| AtomicU64::new(0))
                .collect()
        };
        for word in self.words.get_or_init(allocate) {
            word.store(0, Ordering::Relaxed);
        }
        self.tracking.store(true, Ordering::Release);
    }

    /// Lets writers no longer mark.
    pub(crate) fn stop(&self) {
        self.tracking.store(false, Ordering::Relaxed);
    }

    /// Takes and clears the bits: bit `i % 64` of word `i / 64` for page `i`.
    pub(crate) fn take(&self) -> Box<[u64]> {
        self.words().iter().map(word::take).collect()
    }

    /// Sets the bits that are set in `words`.
    pub(crate) fn mark_words(&self, words: &[u64]) {
        for (word, bits) in self.words().iter().zip(words) {
            if *bits != 0 {
                word::mark(word, *bits);
            }
        }
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get().map_or(&[], |words| words)
    }

    #[inline]
    fn is_tracking(&self) -> bool {
        // Pairs with the barrier of the start: the load must not move before the data's writes.
        compiler_fence(Ordering::SeqCst);
        self.tracking.load(Ordering::Relaxed)
    }

    #[cold]
    #[inline(never)]
    fn mark(&self, offset: usize, len: usize) {
        // Pairs with the start's release, so that the words are there.
        fence(Ordering::Acquire);
        let offset = offset as u64;
        let end = offset.saturating_add(len as u64).min(self.size);
        if offset >= end {
            return;
        }
        let (first, last) = (offset / PAGE_SIZE, (end - 1) / PAGE_SIZE);
        let (first_word, last_word) = (first / PAGES_PER_WORD, last / PAGES_PER_WORD);
        let words = self
            .words()
            .get(first_word as usize..=last_word as usize)
            .unwrap_or(&[]);
        for (word, index) in words.iter().zip(first_word..) {
            let mut bits = u64::MAX;
            if index == first_word {
                bits &= u64::MAX << (first % PAGES_PER_WORD);
            }
            if index == last_word {
                bits &= u64::MAX >> (PAGES_PER_WORD - 1 - last % PAGES_PER_WORD);
            }
            word::mark(word, bits);
        }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmap {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for DirtyBitmap {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.is_tracking() {
            self.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset as u64 / PAGE_SIZE;
        let word = self.words().get((page / PAGES_PER_WORD) as usize);
        self.is_tracking()
            && word.is_some_and(|word| {
                word.load(Ordering::Acquire) >> (page % PAGES_PER_WORD) & 1 == 1
            })
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(pages: u64) -> DirtyBitmap {
        let bitmap = DirtyBitmap::new(pages * PAGE_SIZE);
        bitmap.start();
        bitmap
    }

    fn set_pages(words: &[u64]) -> Vec<u64> {
        let bits =
            (0..words.len() as u64 * 64).filter(|i| words[(i / 64) as usize] >> (i % 64) & 1 == 1);
        bits.collect()
    }

    #[test]
    fn nothing_is_allocated_or_marked_before_the_start() {
        let bitmap = DirtyBitmap::new(1 << 40);
        bitmap.mark_dirty(0, 4096);
        assert!(bitmap.words.get().is_none());
        assert!(!bitmap.dirty_at(0));
        assert!(bitmap.take().is_empty());
    }

    #[test]
    fn a_mark_sets_each_page_that_it_touches_and_no_other() {
        const PAGE: usize = PAGE_SIZE as usize;
        for (offset, len, pages) in [
            (0, 1, 0..1),
            (0, 0, 0..0),
            (PAGE - 1, 1, 0..1),
            (PAGE - 1, 2, 0..2),
            (63 * PAGE, 2 * PAGE, 63..65),
            (5 * PAGE, 190 * PAGE, 5..195),
            (199 * PAGE, usize::MAX, 199..200),
            (200 * PAGE, 1, 0..0),
            (usize::MAX, usize::MAX, 0..0),
        ] {
            let bitmap = started(200);
            bitmap.mark_dirty(offset, len);
            assert_eq!(
                set_pages(&bitmap.take()),
                pages.collect::<Vec<_>>(),
                "{offset} {len}"
            );
        }
    }

    #[test]
    fn a_slice_marks_from_its_own_start() {
        let bitmap = started(4);
        bitmap.slice_at(4096).slice_at(4096).mark_dirty(10, 1);
        assert!(bitmap.dirty_at(2 * 4096));
        assert_eq!(set_pages(&bitmap.take()), [2]);
        assert!(!bitmap.dirty_at(2 * 4096));
    }

    #[test]
    fn a_new_start_forgets_what_was_marked() {
        let bitmap = started(4);
        bitmap.mark_dirty(0, 1);
        bitmap.stop();
        bitmap.mark_dirty(4096, 1);
        assert!(!bitmap.dirty_at(0));
        bitmap.start();
        assert!(set_pages(&bitmap.take()).is_empty());
    }
}
