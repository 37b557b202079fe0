use std::iter;

use vm_memory::GuestAddress;

use super::PAGES_PER_WORD;
use crate::{Error, PAGE_SIZE};

/// The pages that were written in a stretch of time: a bitmap for each region of guest RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyLog {
    pub(crate) regions: Vec<RegionLog>,
}

/// The part of a log that describes one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegionLog {
    pub(crate) guest_base: GuestAddress,
    pub(crate) pages: u64,
    pub(crate) words: Box<[u64]>,
}

/// Written pages that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyRange {
    /// The region's index, from 0.
    pub slot: usize,
    /// Bytes from the beginning of the region.
    pub offset: u64,
    /// The guest-physical address of the first byte.
    pub guest_base: GuestAddress,
    /// Bytes: a multiple of [`PAGE_SIZE`].
    pub len: u64,
}

impl DirtyLog {
    /// The number of written pages of 4 KiB.
    pub fn pages(&self) -> u64 {
        let words = self.regions.iter().flat_map(|region| &region.words);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page was written.
    pub fn is_empty(&self) -> bool {
        self.regions
            .iter()
            .all(|region| region.words.iter().all(|word| *word == 0))
    }

    /// The written pages as ranges, ascending, none touching the next in its region.
    pub fn ranges(&self) -> impl Iterator<Item = DirtyRange> {
        self.regions.iter().enumerate().flat_map(|(slot, region)| {
            region.runs().map(move |(first, end)| DirtyRange {
                slot,
                offset: first * PAGE_SIZE,
                guest_base: GuestAddress(region.guest_base.0 + first * PAGE_SIZE),
                len: (end - first) * PAGE_SIZE,
            })
        })
    }

    /// The bitmap of the region `slot`: bit `i % 64` of word `i / 64` for page `i`.
    pub fn words(&self, slot: usize) -> Option<&[u64]> {
        self.regions.get(slot).map(|region| &*region.words)
    }

    /// Adds the pages that a hypervisor's dirty log states for the region `slot`: a bitmap as KVM
    /// gives it (KVM API, `KVM_GET_DIRTY_LOG`), with one bit for each page of 4 KiB.
    ///
    /// # Errors
    /// [`Error::LogShape`] if there is no such region or `words` does not describe it.
    pub fn merge(&mut self, slot: usize, words: &[u64]) -> Result<(), Error> {
        let wanted = self
            .regions
            .get(slot)
            .map_or(0, |region| region.words.len());
        let region = self
            .regions
            .get_mut(slot)
            .filter(|region| region.words.len() == words.len());
        let region = region.ok_or(Error::LogShape {
            slot,
            got: words.len(),
            wanted,
        })?;
        for (word, more) in region.words.iter_mut().zip(words) {
            *word |= more;
        }
        region.clear_tail();
        Ok(())
    }

    /// Adds the pages of another log of the same guest RAM.
    ///
    /// # Errors
    /// [`Error::LogShape`] if the logs have different regions; then nothing is added.
    pub fn merge_log(&mut self, other: &DirtyLog) -> Result<(), Error> {
        let shape: Vec<usize> = self
            .regions
            .iter()
            .map(|region| region.words.len())
            .collect();
        other.check_shape(&shape)?;
        for (slot, region) in other.regions.iter().enumerate() {
            self.merge(slot, &region.words)?;
        }
        Ok(())
    }

    /// Checks that the log has as many words for each region as `shape` says.
    pub(crate) fn check_shape(&self, shape: &[usize]) -> Result<(), Error> {
        for slot in 0..shape.len().max(self.regions.len()) {
            let wanted = shape.get(slot).copied().unwrap_or(0);
            let got = self.words(slot).map_or(0, <[u64]>::len);
            if got != wanted {
                return Err(Error::LogShape { slot, got, wanted });
            }
        }
        Ok(())
    }
}

impl RegionLog {
    /// Clears the bits past the last page.
    fn clear_tail(&mut self) {
        let used = self.pages % PAGES_PER_WORD;
        if let Some(last) = self.words.last_mut().filter(|_| used != 0) {
            *last &= !(u64::MAX << used);
        }
    }

    /// The runs of set bits, as the first page and the one after the last.
    fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut from = 0;
        iter::from_fn(move || {
            let first = self.next_page(from, true)?;
            let end = self.next_page(first, false).unwrap_or(self.pages);
            from = end;
            Some((first, end))
        })
    }

    /// The first page from `from` whose bit is `set`.
    fn next_page(&self, from: u64, set: bool) -> Option<u64> {
        let first_word = from / PAGES_PER_WORD;
        let words = self.words.get(first_word as usize..)?;
        let mut unseen = u64::MAX << (from % PAGES_PER_WORD);
        for (index, word) in (first_word..).zip(words) {
            let hits = (if set { *word } else { !word }) & unseen;
            if hits != 0 {
                let page = index * PAGES_PER_WORD + u64::from(hits.trailing_zeros());
                return Some(page).filter(|page| *page < self.pages);
            }
            unseen = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(pages: u64, words: Vec<u64>) -> DirtyLog {
        let region = RegionLog {
            guest_base: GuestAddress(1 << 32),
            pages,
            words: words.into(),
        };
        DirtyLog {
            regions: vec![region],
        }
    }

    #[test]
    fn a_hypervisor_s_log_is_added_without_bits_past_the_end() {
        let mut log = log(65, vec![1, 0]);
        log.merge(0, &[2, u64::MAX]).unwrap();
        assert_eq!(log.words(0).unwrap(), [3, 1]);
        assert_eq!(log.pages(), 3);
    }

    #[test]
    fn a_log_of_another_shape_is_refused_whole() {
        let mut one = log(65, vec![0, 0]);
        for words in [&[0_u64; 1][..], &[0; 3]] {
            assert!(matches!(
                one.merge(0, words),
                Err(Error::LogShape { wanted: 2, .. })
            ));
        }
        assert!(matches!(
            one.merge(1, &[1]),
            Err(Error::LogShape {
                slot: 1,
                wanted: 0,
                ..
            })
        ));
        let mut two = log(65, vec![1, 1]);
        two.regions.push(RegionLog {
            guest_base: GuestAddress(0),
            pages: 1,
            words: [1].into(),
        });
        assert!(matches!(
            one.merge_log(&two),
            Err(Error::LogShape { slot: 1, .. })
        ));
        assert!(one.is_empty());
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_bits(
            words in prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 1..6),
            tail in 1_u64..=64,
        ) {
            let pages = (words.len() as u64 - 1) * 64 + tail;
            let mut log = log(pages, vec![0; words.len()]);
            log.merge(0, &words).unwrap();

            let mut expected: Vec<u64> = Vec::new();
            expected.extend((0..pages).filter(|i| words[(i / 64) as usize] >> (i % 64) & 1 == 1));
            let mut seen = Vec::new();
            let mut previous_end = None;
            for range in log.ranges() {
                prop_assert!(previous_end.is_none_or(|end| end < range.offset));
                prop_assert_eq!(range.guest_base.0, (1 << 32) + range.offset);
                previous_end = Some(range.offset + range.len);
                seen.extend((0..range.len / PAGE_SIZE).map(|i| range.offset / PAGE_SIZE + i));
            }
            prop_assert_eq!(log.pages(), expected.len() as u64);
            prop_assert_eq!(log.is_empty(), expected.is_empty());
            prop_assert_eq!(seen, expected);
        }
    }
}
