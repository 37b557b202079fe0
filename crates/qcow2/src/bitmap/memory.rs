//! A bitmap in memory.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::{AUTO, DirectoryEntry, bytes_for};

/// Words of one page of bits: 4 KiB.
const PAGE_WORDS: usize = 512;
/// Bits of one page.
const PAGE_BITS: u64 = PAGE_WORDS as u64 * 64;

type Page = Box<[AtomicU64; PAGE_WORDS]>;

/// The bits of one bitmap; they may be set by many threads.
pub(crate) struct Bitmap {
    pub(crate) name: String,
    pub(crate) granularity_bits: u32,
    pub(crate) enabled: AtomicBool,
    /// In use when the image was opened: what it says can not be relied on. It is kept as it
    /// lies in the file.
    pub(crate) inconsistent: Option<DirectoryEntry>,
    pub(crate) extra: Vec<u8>,
    /// A page takes memory once one of its bits is set: a small image can claim a large bitmap.
    pages: Box<[OnceLock<Page>]>,
    /// A bit for each page all of whose bits are set, whatever the page says.
    full: Box<[AtomicU64]>,
    bits: u64,
}

impl Bitmap {
    /// A clean bitmap over a disk of `size` bytes.
    pub(crate) fn new(name: String, granularity_bits: u32, size: u64) -> Self {
        let bits = size.div_ceil(1 << granularity_bits);
        let pages = bits.div_ceil(PAGE_BITS);
        Self {
            name,
            granularity_bits,
            enabled: AtomicBool::new(true),
            inconsistent: None,
            extra: Vec::new(),
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            full: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            bits,
        }
    }

    /// Bytes that its bits take when all are in memory.
    pub(crate) fn bytes(&self, size: u64) -> u64 {
        match self.inconsistent {
            Some(_) => 0,
            None => bytes_for(size, self.granularity_bits),
        }
    }

    /// A bitmap that can only be kept as it is.
    pub(crate) fn unusable(entry: DirectoryEntry) -> Self {
        let mut bitmap = Self::new(entry.name.clone(), entry.granularity_bits, 0);
        bitmap.enabled = (entry.flags & AUTO != 0).into();
        bitmap.inconsistent = Some(entry);
        bitmap
    }

    /// The same bitmap over a disk of `size` bytes, without any mark.
    pub(crate) fn emptied(&self, size: u64) -> Self {
        if let Some(entry) = &self.inconsistent {
            return Self::unusable(entry.clone());
        }
        let mut new = Self::new(self.name.clone(), self.granularity_bits, size);
        new.extra.clone_from(&self.extra);
        new.enabled = self.enabled.load(Ordering::Acquire).into();
        new
    }

    /// Marks a range of guest bytes.
    pub(crate) fn mark(&self, offset: u64, length: u64) {
        if length == 0 || self.bits == 0 {
            return;
        }
        let first = offset >> self.granularity_bits;
        let last = ((offset + length - 1) >> self.granularity_bits).min(self.bits - 1);
        self.set_bits(first, last);
    }

    /// Sets the bits from `first` to `last`.
    fn set_bits(&self, first: u64, last: u64) {
        let mut word = first / 64;
        while word <= last / 64 {
            let start = word * 64;
            if start >= first && start.is_multiple_of(PAGE_BITS) && start + (PAGE_BITS - 1) <= last
            {
                let page = word / PAGE_WORDS as u64;
                set(&self.full[(page / 64) as usize], 1 << (page % 64));
                word += PAGE_WORDS as u64;
                continue;
            }
            let low = if word == first / 64 { first % 64 } else { 0 };
            let high = if word == last / 64 { last % 64 } else { 63 };
            self.set_word(word as usize, (u64::MAX >> (63 - high)) & (u64::MAX << low));
            word += 1;
        }
    }

    fn set_word(&self, word: usize, mask: u64) {
        let Some(page) = self.pages.get(word / PAGE_WORDS) else {
            return;
        };
        let page = page.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE_WORDS]));
        set(&page[word % PAGE_WORDS], mask);
    }

    fn is_full(&self, page: usize) -> bool {
        self.full
            .get(page / 64)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 != 0)
    }

    /// Whether no bit of a page was ever set.
    fn is_vacant_page(&self, page: usize) -> bool {
        !self.is_full(page) && self.pages.get(page).is_none_or(|page| page.get().is_none())
    }

    fn word(&self, word: usize) -> u64 {
        let page = word / PAGE_WORDS;
        if self.is_full(page) {
            return u64::MAX;
        }
        self.pages
            .get(page)
            .and_then(OnceLock::get)
            .map_or(0, |page| page[word % PAGE_WORDS].load(Ordering::Relaxed))
    }

    fn is_set(&self, bit: u64) -> bool {
        self.word((bit / 64) as usize) >> (bit % 64) & 1 != 0
    }

    /// The first marked range of guest bytes at or after `offset`, as (start, end).
    pub(crate) fn next(&self, offset: u64) -> Option<(u64, u64)> {
        let mut bit = offset >> self.granularity_bits;
        while bit < self.bits && !self.is_set(bit) {
            let word = (bit / 64) as usize;
            bit = if self.is_vacant_page(word / PAGE_WORDS) {
                (bit - bit % PAGE_BITS).saturating_add(PAGE_BITS)
            } else if bit.is_multiple_of(64) && self.word(word) == 0 {
                bit + 64
            } else {
                bit + 1
            };
        }
        if bit >= self.bits {
            return None;
        }
        let start = bit;
        while bit < self.bits && self.is_set(bit) {
            bit += 1;
        }
        Some((
            (start << self.granularity_bits).max(offset),
            bit << self.granularity_bits,
        ))
    }

    /// Sets the bits that `other` has, whatever its granularity.
    pub(crate) fn merge(&self, other: &Bitmap) {
        let mut at = 0;
        while let Some((start, end)) = other.next(at) {
            self.mark(start, end - start);
            at = end;
        }
    }

    /// What all bits of some bytes of the stored form are, if that is plain to see.
    pub(crate) fn uniform(&self, from: usize, count: usize) -> Option<bool> {
        let page = PAGE_WORDS * 8;
        let mut pages = from / page..(from + count).div_ceil(page);
        if pages.clone().all(|page| self.is_vacant_page(page)) {
            return Some(false);
        }
        pages.all(|page| self.is_full(page)).then_some(true)
    }

    /// The bits as bytes, in the format's order: bit 0 of byte 0 first. `from` is a multiple of 8.
    pub(crate) fn to_bytes(&self, from: usize, count: usize) -> Vec<u8> {
        let words = (from / 8..(from + count).div_ceil(8)).map(|word| self.word(word));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(count);
        bytes
    }

    /// Sets all bits of some bytes of the stored form.
    pub(crate) fn fill(&self, from: usize, count: usize) {
        let (first, end) = (from as u64 * 8, (from + count) as u64 * 8);
        if first < self.bits {
            self.set_bits(first, end.min(self.bits) - 1);
        }
    }

    /// Takes the bits of some bytes of the stored form over.
    pub(crate) fn load(&self, from: usize, bytes: &[u8]) {
        for (number, &byte) in bytes.iter().enumerate() {
            let at = from + number;
            let first = at as u64 * 8;
            if byte == 0 || first >= self.bits {
                continue;
            }
            let valid = (self.bits - first).min(8) as u32;
            let byte = byte & (0xffu16 >> (8 - valid)) as u8;
            self.set_word(at / 8, u64::from(byte) << (at % 8 * 8));
        }
    }
}

/// Sets bits of a word. A look comes first: most are there already.
fn set(place: &AtomicU64, mask: u64) {
    if place.load(Ordering::Relaxed) & mask != mask {
        place.fetch_or(mask, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_as_marked() {
        let bitmap = Bitmap::new("b".into(), 12, (1 << 20) + 5);
        bitmap.mark(5000, 1);
        bitmap.mark(300_000, 700_000);
        assert_eq!(bitmap.next(0), Some((4096, 8192)));
        assert_eq!(bitmap.next(8192), Some((299_008, 1_003_520)));
        assert_eq!(bitmap.next(1_003_520), None);
        let bytes = bitmap.to_bytes(0, 33);
        let other = Bitmap::new("c".into(), 12, (1 << 20) + 5);
        other.load(0, &bytes);
        assert_eq!(other.next(8192), Some((299_008, 1_003_520)));
        let coarse = Bitmap::new("d".into(), 16, (1 << 20) + 5);
        coarse.merge(&bitmap);
        assert_eq!(coarse.next(0), Some((0, 65536)));
    }

    #[test]
    fn full_pages_are_like_others() {
        let size = 5 * PAGE_BITS + 100;
        let (marked, filled) = (
            Bitmap::new("a".into(), 0, size),
            Bitmap::new("b".into(), 0, size),
        );
        marked.mark(PAGE_BITS - 3, 3 * PAGE_BITS + 9);
        assert_eq!(marked.next(0), Some((PAGE_BITS - 3, 4 * PAGE_BITS + 6)));
        assert_eq!(marked.next(4 * PAGE_BITS + 6), None);
        let in_memory = marked.pages.iter().filter(|page| page.get().is_some());
        assert_eq!(in_memory.count(), 2);
        let bytes = size.div_ceil(8) as usize;
        filled.load(0, &marked.to_bytes(0, bytes));
        assert_eq!(filled.next(0), marked.next(0));
        filled.fill(0, bytes);
        assert_eq!(filled.next(1), Some((1, size)));
        assert_eq!(filled.emptied(size).next(0), None);
    }
}
