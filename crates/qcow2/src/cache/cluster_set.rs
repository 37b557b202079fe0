//! A sparse set of host clusters, read without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

const WORDS: usize = 512;
const BITS: u64 = WORDS as u64 * 64;
const PAGES_PER_CHUNK: u64 = 256;
const CHUNKS: usize = 1024;
/// Clusters from this number on are not supported: 512 TiB of 64 KiB clusters.
pub(crate) const LIMIT: u64 = CHUNKS as u64 * PAGES_PER_CHUNK * BITS;

type Page = Box<[AtomicU64; WORDS]>;
type Chunk = Box<[OnceLock<Page>]>;

#[derive(Default)]
pub(crate) struct ClusterSet {
    chunks: OnceLock<Box<[OnceLock<Chunk>]>>,
    pages: AtomicU64,
}

impl ClusterSet {
    fn word(&self, cluster: u64) -> Option<&AtomicU64> {
        let page = cluster / BITS;
        let chunk = self
            .chunks
            .get()?
            .get((page / PAGES_PER_CHUNK) as usize)?
            .get()?;
        let page = chunk[(page % PAGES_PER_CHUNK) as usize].get()?;
        Some(&page[(cluster % BITS / 64) as usize])
    }

    pub(crate) fn contains(&self, cluster: u64) -> bool {
        self.word(cluster)
            .is_some_and(|w| w.load(Ordering::Acquire) >> (cluster % 64) & 1 != 0)
    }

    pub(crate) fn insert(&self, cluster: u64) -> Result<()> {
        let too_large = Error::TooLarge {
            what: "host cluster",
            value: cluster,
            limit: LIMIT - 1,
        };
        let page = cluster / BITS;
        let chunks = self
            .chunks
            .get_or_init(|| (0..CHUNKS).map(|_| OnceLock::new()).collect());
        let chunk = chunks
            .get((page / PAGES_PER_CHUNK) as usize)
            .ok_or(too_large)?;
        let chunk = chunk.get_or_init(|| (0..PAGES_PER_CHUNK).map(|_| OnceLock::new()).collect());
        let page = chunk[(page % PAGES_PER_CHUNK) as usize].get_or_init(|| {
            self.pages.fetch_add(1, Ordering::Relaxed);
            Box::new([const { AtomicU64::new(0) }; WORDS])
        });
        page[(cluster % BITS / 64) as usize].fetch_or(1 << (cluster % 64), Ordering::Release);
        Ok(())
    }

    pub(crate) fn remove(&self, cluster: u64) {
        if let Some(word) = self.word(cluster) {
            word.fetch_and(!(1 << (cluster % 64)), Ordering::Release);
        }
    }

    /// Empties the set.
    pub(crate) fn clear(&self) {
        let chunks = self.chunks.get().into_iter().flatten();
        let pages = chunks
            .filter_map(OnceLock::get)
            .flatten()
            .filter_map(OnceLock::get);
        pages
            .flat_map(|page| page.iter())
            .for_each(|word| word.store(0, Ordering::Release));
    }

    /// Bytes of memory that its pages take.
    pub(crate) fn memory(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * WORDS as u64 * 8
    }
}
