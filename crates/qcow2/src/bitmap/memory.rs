//! A bitmap in memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::{DirectoryEntry, bytes_for};

/// The bits of one bitmap; they may be set by many threads.
pub(crate) struct Bitmap {
    pub(crate) name: String,
    pub(crate) granularity_bits: u32,
    pub(crate) enabled: AtomicBool,
    /// In use when the image was opened: what it says can not be relied on. It is kept as it
    /// lies in the file.
    pub(crate) inconsistent: Option<DirectoryEntry>,
    pub(crate) extra: Vec<u8>,
    words: Vec<AtomicU64>,
    bits: u64,
}

impl Bitmap {
    /// A clean bitmap over a disk of `size` bytes.
    pub(crate) fn new(name: String, granularity_bits: u32, size: u64) -> Self {
        let bits = size.div_ceil(1 << granularity_bits);
        let words = bytes_for(size, granularity_bits).div_ceil(8);
        Self {
            name,
            granularity_bits,
            enabled: AtomicBool::new(true),
            inconsistent: None,
            extra: Vec::new(),
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            bits,
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
            if let Some(place) = self.words.get(word as usize) {
                // A look first: most marks are there already.
                if place.load(Ordering::Relaxed) & mask != mask {
                    place.fetch_or(mask, Ordering::Relaxed);
                }
            }
        }
    }

    pub(crate) fn clear(&self) {
        self.words
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn is_set(&self, bit: u64) -> bool {
        let word = self
            .words
            .get((bit / 64) as usize)
            .map_or(0, |w| w.load(Ordering::Relaxed));
        word >> (bit % 64) & 1 != 0
    }

    /// The first marked range of guest bytes at or after `offset`, as (start, end).
    pub(crate) fn next(&self, offset: u64) -> Option<(u64, u64)> {
        let mut bit = offset >> self.granularity_bits;
        while bit < self.bits && !self.is_set(bit) {
            let empty_word = bit.is_multiple_of(64)
                && self.words.get((bit / 64) as usize)?.load(Ordering::Relaxed) == 0;
            bit += if empty_word { 64 } else { 1 };
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

    /// The bits as bytes, in the format's order: bit 0 of byte 0 first.
    pub(crate) fn to_bytes(&self, from: usize, count: usize) -> Vec<u8> {
        let byte = |at: usize| {
            let word = self
                .words
                .get(at / 8)
                .map_or(0, |w| w.load(Ordering::Relaxed));
            word.to_le_bytes()[at % 8]
        };
        (from..from + count).map(byte).collect()
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
            if let Some(word) = self.words.get(at / 8) {
                word.fetch_or(u64::from(byte) << (at % 8 * 8), Ordering::Relaxed);
            }
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
