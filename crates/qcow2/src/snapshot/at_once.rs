//! Snapshot operations where the format has no dirty bit (version 2).
//!
//! COPIED flags and refcounts can not be changed in their places one after the other then: a crash
//! in between would leave flags that a check calls corrupt. So nothing is changed in its place.
//! The active tables, those of their L2 tables whose flags change, the snapshot table and all
//! refcounts are written anew, and one write of the header's first sector, which names them all,
//! is the commit point. This costs a walk over all tables; until the commit the image is as it
//! was.

use std::sync::atomic::Ordering;

use super::format::{Snapshot, encode_table};
use crate::check::{Claim, Counts};
use crate::error::Result;
use crate::format::bytes::{self, get_u64};
use crate::format::entry::{COPIED, L1Entry, L2Entry};
use crate::format::{Geometry, Header};
use crate::image::Image;
use crate::image::state::State;
use crate::refcount::Allocated;

/// Where the new tables go, host offsets: adjacent parts of one allocation.
struct Places {
    all: Allocated,
    /// The active L1 table.
    active: u64,
    /// The L1 table of a new snapshot.
    taken: u64,
    snapshots: u64,
    /// Clusters for L2 tables, as many as there may be changed ones.
    l2: u64,
}

/// What the header is to name.
pub(super) struct After {
    /// Entries of the active L1 table; their COPIED flags mean nothing.
    pub(super) l1: Vec<u64>,
    pub(super) list: Vec<Snapshot>,
    /// The last of the list is new: it gets a copy of the entries.
    pub(super) taken: bool,
    /// Size of the disk in bytes.
    pub(super) size: u64,
}

impl Image {
    /// Goes over to other tables in one step. If this fails, the image is as it was.
    pub(super) fn switch_at_once(&self, state: &mut State, mut after: After) -> Result<()> {
        // Without this no write goes in place; those under way are waited for.
        self.ready.store(false, Ordering::Release);
        self.epochs.wait();
        let switched = self.find_places(state, &after).and_then(|places| {
            if after.taken
                && let Some(new) = after.list.last_mut()
            {
                new.l1_offset = places.taken;
            }
            let switched = self.write_anew(state, &after, &places);
            if switched.is_err() && !self.broken.load(Ordering::Acquire) {
                self.free_now(state, places.all.offset, places.all.clusters)?;
            }
            Ok((places.active, switched?))
        });
        let Ok((place, words)) = switched else {
            self.ready.store(state.prepared, Ordering::Release);
            return switched.map(drop);
        };
        let done = self.l1.replace(&*self.file, place, &words).and_then(|()| {
            self.set_size_in_memory(after.size);
            self.l2.forget_all();
            // Nobody looks at the old tables any more, so that what they named may be used again.
            self.epochs.wait();
            self.l2.forget_all();
            self.prepare(state)
        });
        self.or_break(done)
    }

    fn find_places(&self, state: &mut State, after: &After) -> Result<Places> {
        let geometry = &self.geometry;
        let l1 = geometry.clusters(after.l1.len() as u64 * 8);
        let named = |word: &&u64| L1Entry(**word).table().is_some();
        let clusters = [
            l1,
            if after.taken { l1 } else { 0 },
            geometry.clusters(encode_table(&after.list, after.size)?.len() as u64),
            after.l1.iter().filter(named).count() as u64,
        ];
        let all = self.allocate_exact(state, "snapshot tables", clusters.iter().sum())?;
        let mut next = all.offset;
        let [active, taken, snapshots, l2] = clusters.map(|count| {
            let place = next;
            next += count << geometry.cluster_bits;
            place
        });
        Ok(Places {
            all,
            active,
            taken,
            snapshots,
            l2,
        })
    }

    /// Writes the tables, and then the header. Returns the active L1 entries.
    fn write_anew(&self, state: &mut State, after: &After, places: &Places) -> Result<Vec<u64>> {
        let mut words: Vec<u64> = after.l1.iter().map(|word| word & !COPIED).collect();
        self.write_table(&words, places.active)?;
        if after.taken {
            self.write_table(&words, places.taken)?;
        }
        let table = encode_table(&after.list, after.size)?;
        self.write_padded(table, places.snapshots)?;
        let header = Header {
            l1_offset: places.active,
            l1_size: words.len() as u32,
            snapshots_offset: if after.list.is_empty() {
                0
            } else {
                places.snapshots
            },
            snapshot_count: after.list.len() as u32,
            size: after.size,
            ..state.header.clone()
        };
        let mut counts = self.count_sound(&header)?;
        self.set_flags(&mut words, &mut counts, places.l2)?;
        self.write_table(&words, places.active)?;
        let end = state.refcounts.end(self.disk())?;
        self.rebuild(state, header, &counts, end)?;
        Ok(words)
    }

    /// Sets the COPIED flags of L1 entries and of the L2 tables that they name to what the counts
    /// say. Tables that change are written to clusters from `place` on.
    fn set_flags(&self, words: &mut [u64], counts: &mut Counts, place: u64) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let l1 = words.to_vec();
        let mut place = place;
        self.l2_tables(&l1, |index, table, raw| {
            if flag_entries(&self.geometry, raw, counts) {
                self.file.write_at(raw, place)?;
                counts.remove(table >> bits);
                counts.add(place >> bits, Claim::None);
                words[index] = place | COPIED;
                place += self.geometry.cluster_size();
            } else if counts.get(table >> bits) == 1 {
                words[index] = table | COPIED;
            }
            Ok(())
        })
    }

    fn write_table(&self, words: &[u64], place: u64) -> Result<()> {
        self.write_padded(bytes::from_words(words.iter().copied()), place)
    }

    fn write_padded(&self, mut raw: Vec<u8>, place: u64) -> Result<()> {
        let size = self.geometry.cluster_size() as usize;
        raw.resize(raw.len().next_multiple_of(size), 0);
        self.file.write_at(&raw, place)
    }
}

/// Sets the COPIED flags of an L2 table's entries; whether any was wrong.
fn flag_entries(geometry: &Geometry, raw: &mut [u8], counts: &Counts) -> bool {
    let mut changed = false;
    for bytes in raw.chunks_exact_mut(geometry.l2_entry_size() as usize) {
        let entry = L2Entry {
            word: get_u64(bytes, 0),
            bitmap: 0,
        };
        let Some(host) = entry.host(geometry) else {
            continue;
        };
        let flag = match counts.get(host >> geometry.cluster_bits) {
            1 => COPIED,
            _ => 0,
        };
        if entry.word & COPIED != flag {
            bytes[..8].copy_from_slice(&(entry.word ^ COPIED).to_be_bytes());
            changed = true;
        }
    }
    changed
}
