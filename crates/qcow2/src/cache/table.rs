//! A table of u64 in the image (L1, refcount table), read page by page as it is needed.
//!
//! Reads take no lock. Changes come from one thread at a time: the holder of the image's metadata.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::bytes;
use crate::storage::Storage;

/// Entries of one page: 4 KiB.
pub(crate) const PAGE: u64 = 512;
const PAGES_PER_CHUNK: u64 = 128;
/// 64 chunks of 128 pages of 4 KiB are 32 MiB, the largest table of the format.
const CHUNKS: usize = 64;

type Page = Box<[AtomicU64]>;
type Chunk = Box<[OnceLock<Page>]>;

/// The table.
pub(crate) struct Table {
    offset: AtomicU64,
    len: AtomicU64,
    chunks: [OnceLock<Chunk>; CHUNKS],
    pages: AtomicU64,
}

impl Table {
    /// A table of `len` entries at `offset`; nothing is read yet.
    pub(crate) fn new(offset: u64, len: u64) -> Self {
        Self {
            offset: AtomicU64::new(offset),
            len: AtomicU64::new(len),
            chunks: [const { OnceLock::new() }; CHUNKS],
            pages: AtomicU64::new(0),
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Bytes of memory that its pages take.
    pub(crate) fn memory(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * PAGE * 8
    }

    fn page(&self, storage: &dyn Storage, number: u64) -> Result<&Page> {
        let chunk =
            self.chunks
                .get((number / PAGES_PER_CHUNK) as usize)
                .ok_or(Error::TooLarge {
                    what: "table",
                    value: number * PAGE * 8,
                    limit: CHUNKS as u64 * PAGES_PER_CHUNK * PAGE * 8,
                })?;
        let chunk = chunk.get_or_init(|| (0..PAGES_PER_CHUNK).map(|_| OnceLock::new()).collect());
        let cell = &chunk[(number % PAGES_PER_CHUNK) as usize];
        if let Some(page) = cell.get() {
            return Ok(page);
        }
        let entries = PAGE.min(self.len().saturating_sub(number * PAGE));
        let mut raw = vec![0; (entries * 8) as usize];
        if entries > 0 {
            storage.read_at(&mut raw, self.offset() + number * PAGE * 8)?;
        }
        raw.resize(PAGE as usize * 8, 0);
        Ok(cell.get_or_init(|| {
            self.pages.fetch_add(1, Ordering::Relaxed);
            bytes::words(&raw).map(AtomicU64::new).collect()
        }))
    }

    /// The entry at `index`; 0 past the end.
    pub(crate) fn get(&self, storage: &dyn Storage, index: u64) -> Result<u64> {
        if index >= self.len() {
            return Ok(0);
        }
        let page = self.page(storage, index / PAGE)?;
        Ok(page[(index % PAGE) as usize].load(Ordering::Acquire))
    }

    /// Changes the entry at `index` in memory.
    pub(crate) fn set(&self, storage: &dyn Storage, index: u64, value: u64) -> Result<()> {
        let page = self.page(storage, index / PAGE)?;
        page[(index % PAGE) as usize].store(value, Ordering::Release);
        Ok(())
    }

    /// A page as the image is to hold it: its host offset and its bytes.
    pub(crate) fn page_bytes(&self, storage: &dyn Storage, number: u64) -> Result<(u64, Vec<u8>)> {
        let page = self.page(storage, number)?;
        let entries = PAGE.min(self.len().saturating_sub(number * PAGE)) as usize;
        let raw = bytes::from_words(page[..entries].iter().map(|e| e.load(Ordering::Acquire)));
        Ok((self.offset() + number * PAGE * 8, raw))
    }

    /// All of the entries, in order; only pages that were touched stay in memory.
    pub(crate) fn for_each(
        &self,
        storage: &dyn Storage,
        mut each: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let len = self.len();
        let mut raw = Vec::new();
        let mut start = 0;
        while start < len {
            let count = PAGE.min(len - start);
            let number = start / PAGE;
            let page = self
                .chunks
                .get((number / PAGES_PER_CHUNK) as usize)
                .and_then(OnceLock::get)
                .and_then(|chunk| chunk[(number % PAGES_PER_CHUNK) as usize].get());
            match page {
                Some(page) => {
                    for (index, entry) in page.iter().take(count as usize).enumerate() {
                        each(start + index as u64, entry.load(Ordering::Acquire))?;
                    }
                }
                None => {
                    raw.resize((count * 8) as usize, 0);
                    storage.read_at(&mut raw, self.offset() + start * 8)?;
                    for (index, entry) in bytes::words(&raw).enumerate() {
                        if entry != 0 {
                            each(start + index as u64, entry)?;
                        }
                    }
                }
            }
            start += count;
        }
        Ok(())
    }

    /// Reads every page into memory, so that the table can move.
    pub(crate) fn load_all(&self, storage: &dyn Storage) -> Result<()> {
        (0..self.len().div_ceil(PAGE)).try_for_each(|number| self.page(storage, number).map(drop))
    }

    /// All entries as bytes.
    pub(crate) fn to_bytes(&self, storage: &dyn Storage) -> Result<Vec<u8>> {
        let mut raw = vec![0; (self.len() * 8) as usize];
        self.for_each(storage, |index, entry| {
            raw[index as usize * 8..][..8].copy_from_slice(&entry.to_be_bytes());
            Ok(())
        })?;
        Ok(raw)
    }

    /// Takes over a new place and length after [`Table::load_all`]. Entries past the old end
    /// must be zero in the new place; entries past a new end are forgotten.
    pub(crate) fn relocate(&self, storage: &dyn Storage, offset: u64, len: u64) -> Result<()> {
        let old = self.len();
        for index in len..old {
            self.set(storage, index, 0)?;
        }
        self.offset.store(offset, Ordering::Release);
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Takes over a new place, length and contents.
    pub(crate) fn replace(&self, storage: &dyn Storage, offset: u64, words: &[u64]) -> Result<()> {
        self.load_all(storage)?;
        let old = self.len();
        self.offset.store(offset, Ordering::Release);
        self.len
            .store(old.max(words.len() as u64), Ordering::Release);
        for index in 0..old.max(words.len() as u64) {
            self.set(
                storage,
                index,
                words.get(index as usize).copied().unwrap_or(0),
            )?;
        }
        self.len.store(words.len() as u64, Ordering::Release);
        Ok(())
    }
}
