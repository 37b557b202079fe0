//! The cache of L2 tables, in slices of up to 4 KiB.
//!
//! Lookups take no lock: each slot carries a sequence number that is odd while it changes (a
//! seqlock over atomics, so a torn read is seen and retried, and no memory is ever freed under
//! a reader). Filling a slot takes the lock of its set; changing entries is for the holder of
//! the image's metadata only.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::format::bytes;
use crate::format::entry::L2Entry;

const WAYS: usize = 8;
/// The tag of an empty slot; no slice starts there, the header does.
const EMPTY: u64 = 0;

struct Slot {
    sequence: AtomicU64,
    /// Host offset of the slice.
    tag: AtomicU64,
    dirty: AtomicBool,
    /// A flush has set its contents aside and has not ended.
    flushing: AtomicBool,
    used: AtomicU32,
    words: OnceLock<Box<[AtomicU64]>>,
}

#[repr(align(64))]
struct Set {
    filling: Mutex<()>,
    slots: [Slot; WAYS],
}

/// The entries of one cached slice, as one moment showed them once [`Slices::view`] returns.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    words: &'a [AtomicU64],
    extended: bool,
}

impl View<'_> {
    pub(crate) fn entry(&self, index: usize) -> L2Entry {
        let load = |at: usize| {
            self.words
                .get(at)
                .map_or(0, |word| word.load(Ordering::Relaxed))
        };
        if self.extended {
            L2Entry {
                word: load(index * 2),
                bitmap: load(index * 2 + 1),
            }
        } else {
            L2Entry {
                word: load(index),
                bitmap: 0,
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        if self.extended {
            self.words.len() / 2
        } else {
            self.words.len()
        }
    }
}

/// Why a slice could not be cached.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AllDirty;

pub(crate) struct Slices {
    sets: Box<[Set]>,
    slice_size: u64,
    extended: bool,
    filled: AtomicU64,
    clock: AtomicU32,
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places of slices are allocated at once (1 % of the bytes that they may hold), so that a
/// wish for more than any image is worth must not take the memory of the host.
const LARGEST: u64 = 4 << 30;

impl Slices {
    /// A cache of at most `bytes`, of slices of `slice_size` bytes.
    pub(crate) fn new(bytes: u64, slice_size: u64, extended: bool) -> Self {
        let sets = (bytes.min(LARGEST) / slice_size / WAYS as u64).next_power_of_two();
        let slot = || Slot {
            sequence: AtomicU64::new(0),
            tag: AtomicU64::new(EMPTY),
            dirty: AtomicBool::new(false),
            flushing: AtomicBool::new(false),
            used: AtomicU32::new(0),
            words: OnceLock::new(),
        };
        let set = |_| Set {
            filling: Mutex::new(()),
            slots: std::array::from_fn(|_| slot()),
        };
        Self {
            sets: (0..sets).map(set).collect(),
            slice_size,
            extended,
            filled: AtomicU64::new(0),
            clock: AtomicU32::new(0),
        }
    }

    /// Bytes of memory that the filled slots take.
    pub(crate) fn memory(&self) -> u64 {
        self.filled.load(Ordering::Relaxed) * self.slice_size
    }

    fn set(&self, tag: u64) -> &Set {
        // Multiplicative hashing spreads tables that lie at regular distances.
        let hash = (tag / self.slice_size).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.sets[(hash >> 32) as usize & (self.sets.len() - 1)]
    }

    /// Runs `look` on the slice at host offset `tag`, if it is cached and nobody is changing it:
    /// [`Slices::fill`] waits for that. `look` may run more than
    /// once and may see torn contents, but what is returned comes from a run that saw one moment.
    pub(crate) fn view<R>(&self, tag: u64, look: impl Fn(View<'_>) -> R) -> Option<R> {
        let set = self.set(tag);
        for slot in &set.slots {
            loop {
                let before = slot.sequence.load(Ordering::Acquire);
                if slot.tag.load(Ordering::Relaxed) != tag {
                    break;
                }
                if before & 1 != 0 {
                    // Whoever changes it holds the set's lock, which a miss waits for.
                    break;
                }
                let Some(words) = slot.words.get() else { break };
                let result = look(View {
                    words,
                    extended: self.extended,
                });
                fence(Ordering::Acquire);
                if slot.sequence.load(Ordering::Relaxed) == before {
                    let now = self.clock.load(Ordering::Relaxed);
                    if slot.used.load(Ordering::Relaxed) != now {
                        slot.used.store(now, Ordering::Relaxed);
                    }
                    return Some(result);
                }
            }
        }
        None
    }

    /// Runs `look` on the words of a slice that is not cached.
    pub(crate) fn view_of<R>(&self, words: Vec<u64>, look: impl FnOnce(View<'_>) -> R) -> R {
        let words: Box<[AtomicU64]> = words.into_iter().map(AtomicU64::new).collect();
        look(View {
            words: &words,
            extended: self.extended,
        })
    }

    /// Caches the slice at `tag`, which `load` reads, unless it is there already. `load` runs
    /// under the set's lock.
    pub(crate) fn fill<E>(
        &self,
        tag: u64,
        load: impl FnOnce() -> Result<Vec<u64>, E>,
    ) -> Result<Result<(), AllDirty>, E> {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        if set
            .slots
            .iter()
            .any(|slot| slot.tag.load(Ordering::Relaxed) == tag)
        {
            return Ok(Ok(()));
        }
        let now = self.clock.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let age = |slot: &Slot| match slot.tag.load(Ordering::Relaxed) {
            EMPTY => u32::MAX,
            _ => now.wrapping_sub(slot.used.load(Ordering::Relaxed)),
        };
        // What a lookup does not find here it reads from the disk, which must have it.
        let clean = set.slots.iter().filter(|slot| {
            !slot.dirty.load(Ordering::Acquire) && !slot.flushing.load(Ordering::Acquire)
        });
        let Some(slot) = clean.max_by_key(|slot| age(slot)) else {
            return Ok(Err(AllDirty));
        };
        let words = load()?;
        let place = slot.words.get_or_init(|| {
            self.filled.fetch_add(1, Ordering::Relaxed);
            (0..self.slice_size / 8)
                .map(|_| AtomicU64::new(0))
                .collect()
        });
        slot.change(|| {
            for (place, word) in place.iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
            slot.tag.store(tag, Ordering::Relaxed);
        });
        slot.used.store(now, Ordering::Relaxed);
        Ok(Ok(()))
    }

    /// Changes one entry of a cached slice and marks the slice dirty. False if it is not cached.
    /// Returns whether the slice was clean before, through `newly_dirty`.
    pub(crate) fn update(&self, tag: u64, index: usize, entry: L2Entry) -> Updated {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        let Some(slot) = set.find(tag) else {
            return Updated::Absent;
        };
        let Some(words) = slot.words.get() else {
            return Updated::Absent;
        };
        slot.change(|| {
            if self.extended {
                words[index * 2].store(entry.word, Ordering::Relaxed);
                words[index * 2 + 1].store(entry.bitmap, Ordering::Relaxed);
            } else {
                words[index].store(entry.word, Ordering::Relaxed);
            }
        });
        if slot.dirty.swap(true, Ordering::AcqRel) {
            Updated::Again
        } else {
            Updated::NewlyDirty
        }
    }

    /// The bytes of a cached slice, for a flush to write. The slice stays cached until the flush
    /// has ended; changes from now on make it dirty anew.
    pub(crate) fn begin_flush(&self, tag: u64) -> Option<Vec<u8>> {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        let slot = set.find(tag)?;
        let words = slot.words.get()?;
        slot.flushing.store(true, Ordering::Release);
        slot.dirty.store(false, Ordering::Release);
        Some(bytes::from_words(
            words.iter().map(|word| word.load(Ordering::Relaxed)),
        ))
    }

    /// Says that what [`Slices::begin_flush`] gave is durable.
    pub(crate) fn end_flush(&self, tag: u64) {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        if let Some(slot) = set.find(tag) {
            slot.flushing.store(false, Ordering::Release);
        }
    }

    /// Says that what [`Slices::begin_flush`] gave may not have reached the disk.
    pub(crate) fn take_back(&self, tag: u64) {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        if let Some(slot) = set.find(tag) {
            slot.dirty.store(true, Ordering::Release);
            slot.flushing.store(false, Ordering::Release);
        }
    }

    /// Forgets the slice at `tag`, dirty or not.
    pub(crate) fn forget(&self, tag: u64) {
        let set = self.set(tag);
        let _filling = lock(&set.filling);
        if let Some(slot) = set.find(tag) {
            slot.change(|| slot.tag.store(EMPTY, Ordering::Relaxed));
            slot.dirty.store(false, Ordering::Release);
            slot.flushing.store(false, Ordering::Release);
        }
    }

    /// Forgets every slice.
    pub(crate) fn forget_all(&self) {
        for set in &self.sets {
            let _filling = lock(&set.filling);
            for slot in &set.slots {
                slot.change(|| slot.tag.store(EMPTY, Ordering::Relaxed));
                slot.dirty.store(false, Ordering::Release);
                slot.flushing.store(false, Ordering::Release);
            }
        }
    }
}

/// What [`Slices::update`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Updated {
    /// The slice is not cached; nothing changed.
    Absent,
    /// The slice was clean before.
    NewlyDirty,
    /// The slice was dirty already.
    Again,
}

impl Set {
    fn find(&self, tag: u64) -> Option<&Slot> {
        self.slots
            .iter()
            .find(|slot| slot.tag.load(Ordering::Relaxed) == tag)
    }
}

impl Slot {
    fn change(&self, change: impl FnOnce()) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.sequence
            .store(before.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(cache: &Slices, tag: u64, word: u64) -> Result<(), AllDirty> {
        cache.fill(tag, || Ok::<_, ()>(vec![word; 512])).unwrap()
    }

    #[test]
    fn dirty_slices_are_never_evicted() {
        let cache = Slices::new(WAYS as u64 * 4096, 4096, false);
        for slice in 1..=WAYS as u64 {
            filled(&cache, slice * 4096, slice).unwrap();
            let entry = L2Entry {
                word: slice + 100,
                bitmap: 0,
            };
            assert_eq!(cache.update(slice * 4096, 3, entry), Updated::NewlyDirty);
        }
        assert_eq!(filled(&cache, 1 << 20, 7), Err(AllDirty));
        let flushed = cache.begin_flush(4096).unwrap();
        assert_eq!(bytes::get_u64(&flushed, 24), 101);
        assert_eq!(filled(&cache, 1 << 20, 7), Err(AllDirty), "not on the disk");
        cache.take_back(4096);
        assert_eq!(cache.begin_flush(4096), Some(flushed));
        cache.end_flush(4096);
        filled(&cache, 1 << 20, 7).unwrap();
        assert!(cache.view(4096, |_| ()).is_none());
        assert_eq!(cache.view(2 * 4096, |view| view.entry(3).word), Some(102));
    }

    #[test]
    fn readers_see_whole_entries() {
        let cache = Slices::new(4096 * 8, 4096, true);
        filled(&cache, 4096, 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 1..20_000 {
                    cache.update(
                        4096,
                        5,
                        L2Entry {
                            word: value,
                            bitmap: value,
                        },
                    );
                }
            });
            for _ in 0..20_000 {
                let Some(entry) = cache.view(4096, |view| view.entry(5)) else {
                    continue;
                };
                assert_eq!(entry.word, entry.bitmap);
            }
        });
    }
}
