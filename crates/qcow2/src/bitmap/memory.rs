//! A bitmap in memory.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::{DirectoryEntry, bytes_for};

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
    bits: u64,
}

impl Bitmap {
    /// A clean bitmap over a disk of `size` bytes.
    pub(crate) fn new(name: String, granularity_bits: u32, size: u64) -> Self {
        let bits = size.div_ceil(1 << granularity_bits);
        Self {
            name,
            granularity_bits,
            enabled: AtomicBool::new(true),
            inconsistent: None,
            extra: Vec::new(),
            pages: (0..bits.div_ceil(PAGE_BITS))
                .map(|_| OnceLock::new())
                .collect(),
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
        bitmap.inconsistent = Some(entry);
        bitmap
    }

    /// Marks a range of guest bytes.
    pub(crate) fn mark(&self, offset: u64, length: u64) {
        if length == 0 || self.bits == 0 {
            return;
        }
        let first = offset >> self.granularity_bits;
        let last = ((offset + length - 1) >> self.granularity_bits).min(self.bits - 1);
        for word in first / 64..=last / 64 {
            let low = if word == first / 64 { first % 64 } else { 0 };
            let high = if word == last / 64 { last % 64 } else { 63 };
            let mask = (u64::MAX >> (63 - high)) & (u64::MAX << low);
            self.set(word as usize, mask);
        }
    }

    fn set(&self, word: usize, mask: u64) {
        let Some(page) = self.pages.get(word / PAGE_WORDS) else {
            return;
        };
        let page = page.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE_WORDS]));
        let place = &page[word % PAGE_WORDS];
        // A look first: most marks are there already.
        if place.load(Ordering::Relaxed) & mask != mask {
            place.fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// The page that holds a word, if any of its bits was ever set.
    fn page(&self, word: usize) -> Option<&Page> {
        self.pages.get(word / PAGE_WORDS)?.get()
    }

    fn word(&self, word: usize) -> u64 {
        self.page(word)
            .map_or(0, |page| page[word % PAGE_WORDS].load(Ordering::Relaxed))
    }

    pub(crate) fn clear(&self) {
        for page in self.pages.iter().filter_map(OnceLock::get) {
            page.iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    fn is_set(&self, bit: u64) -> bool {
        self.word((bit / 64) as usize) >> (bit % 64) & 1 != 0
    }

    /// The first marked range of guest bytes at or after `offset`, as (start, end).
    pub(crate) fn next(&self, offset: u64) -> Option<(u64, u64)> {
        let mut bit = offset >> self.granularity_bits;
        while bit < self.bits && !self.is_set(bit) {
            let word = (bit / 64) as usize;
            bit = if self.page(word).is_none() {
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

    /// Whether the bits of some bytes of the stored form were never set.
    pub(crate) fn is_vacant(&self, from: usize, count: usize) -> bool {
        let page = PAGE_WORDS * 8;
        let pages = from / page..(from + count).div_ceil(page);
        self.pages
            .get(pages)
            .is_none_or(|pages| pages.iter().all(|page| page.get().is_none()))
    }

    /// The bits as bytes, in the format's order: bit 0 of byte 0 first. `from` is a multiple of 8.
    pub(crate) fn to_bytes(&self, from: usize, count: usize) -> Vec<u8> {
        let words = (from / 8..(from + count).div_ceil(8)).map(|word| self.word(word));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(count);
        bytes
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
            self.set(at / 8, u64::from(byte) << (at % 8 * 8));
        }
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
}
