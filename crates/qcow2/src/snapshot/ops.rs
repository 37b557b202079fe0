//! Taking, applying and deleting snapshots.
//!
//! COPIED flags and refcounts lie in different places and can not change at once. Where both
//! must, the image carries the dirty bit meanwhile, so that a crash in between is repaired when
//! the image is next opened. The header's first sector is the commit point: one write of it names
//! the new tables and takes the dirty bit away. Version 2 has no such bit: see [`super::at_once`].

use super::at_once::After;
use super::format::{Snapshot, encode_table, read_table};
use crate::error::{Error, Result};
use crate::format::Incompatible;
use crate::format::bytes::{self, get_u64};
use crate::format::entry::{COPIED, CompressedRange, L1Entry, L2Entry};
use crate::format::geometry::MAX_SNAPSHOTS;
use crate::image::Image;
use crate::image::state::State;

/// What a new snapshot is called and says about the machine.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// The user's name for it.
    pub name: String,
    /// Unique string; by default the next free number.
    pub id: Option<String>,
    /// Seconds and nanoseconds since 1970.
    pub date: (u32, u32),
    /// Guest time in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of machine state that [`Image::write_vm_state`] has written.
    pub vm_state_size: u64,
    /// Instructions executed, for recorded machines.
    pub icount: Option<u64>,
}

impl Image {
    /// The image's snapshots, in the order of its table.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooLarge`], [`Error::Io`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let state = self.lock();
        Ok(read_table(&*self.file, &state.header)?.0)
    }

    /// Takes a snapshot of the disk as it is; returns its id. Writes under way wait.
    ///
    /// # Errors
    /// [`Error::Exists`] for an id in use; [`Error::Unsupported`] with an external data file;
    /// [`Error::TooLarge`] if a refcount is at its largest; else as [`Image::write_at`].
    pub fn create_snapshot(&self, new: &NewSnapshot) -> Result<String> {
        self.refuse_data_file()?;
        let _held = self.hold_size();
        let mut state = self.lock_alone()?;
        let state = &mut *state;
        self.sync_all(state)?;
        let (mut list, _) = read_table(&*self.file, &state.header)?;
        if list.len() >= MAX_SNAPSHOTS as usize {
            let (value, limit) = (list.len() as u64 + 1, u64::from(MAX_SNAPSHOTS));
            return Err(Error::TooLarge {
                what: "number of snapshots",
                value,
                limit,
            });
        }
        let id = match &new.id {
            Some(id) if list.iter().any(|snapshot| snapshot.id == *id) => {
                return Err(Error::Exists {
                    what: "snapshot",
                    name: id.clone(),
                });
            }
            Some(id) => id.clone(),
            None => next_id(&list),
        };
        let snapshot = Snapshot {
            id: id.clone(),
            name: new.name.clone(),
            date: new.date,
            vm_clock: new.vm_clock,
            vm_state_size: new.vm_state_size,
            disk_size: Some(self.size()),
            icount: new.icount,
            l1_offset: 0,
            l1_size: self.l1.len() as u32,
            unknown_extra: Vec::new(),
        };
        list.push(snapshot);
        // Known to fit before anything changes.
        encode_table(&list, self.size())?;
        self.check_room_for_references(state)?;
        if state.header.version < 3 {
            let after = After {
                l1: self.active_l1()?,
                list,
                taken: true,
                size: self.size(),
            };
            self.switch_at_once(state, after)?;
            self.discard_vm_state(state, new.vm_state_size)?;
            return Ok(id);
        }

        let l1_bytes = self.l1.len() * 8;
        let place =
            self.allocate_exact(state, "snapshot L1 table", self.geometry.clusters(l1_bytes))?;
        if let Some(last) = list.last_mut() {
            last.l1_offset = place.offset;
        }
        let marked = self.mark_dirty(state)?;
        let done = self
            .share_tables(state, place.offset, place.clusters)
            .and_then(|()| {
                self.commit_table(state, &list, |header| {
                    if marked {
                        header.incompatible = header.incompatible.without(Incompatible::DIRTY);
                    }
                })
            });
        self.or_break(done)?;
        self.discard_vm_state(state, new.vm_state_size)?;
        Ok(id)
    }

    /// Makes the disk what it was when the snapshot was taken; its size too. The snapshot stays.
    ///
    /// # Errors
    /// [`Error::NotFound`]; else as [`Image::write_at`].
    pub fn apply_snapshot(&self, id_or_name: &str) -> Result<()> {
        self.refuse_data_file()?;
        let _alone = self.lock_size();
        let mut state = self.lock_alone()?;
        let state = &mut *state;
        self.sync_all(state)?;
        let (list, _) = read_table(&*self.file, &state.header)?;
        let snapshot = find(&list, id_or_name)?.clone();
        let size = snapshot.disk_size.unwrap_or(self.size());
        let limit = self.geometry.max_size();
        if size > limit {
            return Err(Error::TooLarge {
                what: "snapshot disk size",
                value: size,
                limit,
            });
        }
        let table = self.read_l1(&snapshot)?;
        let entries = u64::from(snapshot.l1_size).max(self.geometry.l1_entries(size));
        if state.header.version < 3 {
            let mut l1 = table;
            l1.resize(entries as usize, 0);
            let taken = false;
            return self.switch_at_once(
                state,
                After {
                    l1,
                    list,
                    taken,
                    size,
                },
            );
        }
        let clusters = self.geometry.clusters(entries * 8);
        let place = self.allocate_exact(state, "L1 table", clusters)?;
        let done = self.switch_l1(state, &table, place.offset, entries, size);
        self.or_break(done)
    }

    /// Deletes a snapshot and frees what only it used.
    ///
    /// # Errors
    /// [`Error::NotFound`]; else as [`Image::write_at`].
    pub fn delete_snapshot(&self, id_or_name: &str) -> Result<()> {
        self.refuse_data_file()?;
        let _held = self.hold_size();
        let mut state = self.lock_alone()?;
        let state = &mut *state;
        self.sync_all(state)?;
        let (mut list, _) = read_table(&*self.file, &state.header)?;
        let snapshot = find(&list, id_or_name)?.clone();
        let table = self.read_l1(&snapshot)?;
        list.retain(|other| other.id != snapshot.id);
        if state.header.version < 3 {
            let after = After {
                l1: self.active_l1()?,
                list,
                taken: false,
                size: self.size(),
            };
            return self.switch_at_once(state, after);
        }
        let mark = !state.header.incompatible.has(Incompatible::DIRTY);
        self.commit_table(state, &list, |header| {
            if mark {
                header.incompatible = header.incompatible.with(Incompatible::DIRTY);
            }
        })?;
        let done = self.drop_tables(state, &table).and_then(|()| {
            let clusters = self.geometry.clusters(u64::from(snapshot.l1_size) * 8);
            self.free_now(state, snapshot.l1_offset, clusters)?;
            self.restore_flags(state)?;
            self.sync_all(state)?;
            if mark {
                self.clear_dirty(state)
            } else {
                Ok(())
            }
        });
        self.or_break(done)
    }

    fn refuse_data_file(&self) -> Result<()> {
        if self.geometry.data_file {
            return Err(Error::Unsupported(
                "snapshots are not supported for images with an external data file".into(),
            ));
        }
        Ok(())
    }

    /// Sets the dirty bit where the format has one; whether it was not set before.
    pub(crate) fn mark_dirty(&self, state: &mut State) -> Result<bool> {
        if state.header.version < 3 || state.header.incompatible.has(Incompatible::DIRTY) {
            return Ok(false);
        }
        state.header.incompatible = state.header.incompatible.with(Incompatible::DIRTY);
        let done = self.write_header(state).and_then(|()| self.file.sync());
        if done.is_err() {
            state.header.incompatible = state.header.incompatible.without(Incompatible::DIRTY);
        }
        done.map(|()| true)
    }

    /// Takes the dirty bit away; everything must be durable.
    pub(crate) fn clear_dirty(&self, state: &mut State) -> Result<()> {
        state.header.incompatible = state.header.incompatible.without(Incompatible::DIRTY);
        self.write_header(state)?;
        self.file.sync()
    }

    /// Writes a new snapshot table and makes the header name it.
    pub(crate) fn commit_table(
        &self,
        state: &mut State,
        list: &[Snapshot],
        also: impl FnOnce(&mut crate::Header),
    ) -> Result<()> {
        let old_bytes = read_table(&*self.file, &state.header)?.1;
        self.replace_table(state, list, old_bytes, also)
    }

    /// The same over a table of `old_bytes`, which need not be sound.
    pub(crate) fn replace_table(
        &self,
        state: &mut State,
        list: &[Snapshot],
        old_bytes: u64,
        also: impl FnOnce(&mut crate::Header),
    ) -> Result<()> {
        let old_offset = state.header.snapshots_offset;
        let table = encode_table(list, self.size())?;
        let clusters = self.geometry.clusters(table.len() as u64);
        let place = self.allocate_exact(state, "snapshot table", clusters)?;
        self.file.write_at(&table, place.offset)?;
        self.insert_metadata(place.offset, clusters)?;
        self.sync(state)?;
        state.header.snapshots_offset = place.offset;
        state.header.snapshot_count = list.len() as u32;
        also(&mut state.header);
        let done = self.write_header(state).and_then(|()| self.file.sync());
        self.or_break(done)?;
        self.free_now(state, old_offset, self.geometry.clusters(old_bytes))
    }

    fn insert_metadata(&self, offset: u64, clusters: u64) -> Result<()> {
        let first = offset >> self.geometry.cluster_bits;
        (first..first + clusters).try_for_each(|cluster| self.metadata.insert(cluster))
    }

    /// Calls `each` with every L2 table (as its L1 entry) of a table of L1 entries.
    pub(super) fn l2_tables(
        &self,
        l1: &[u64],
        mut each: impl FnMut(usize, u64, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut raw = vec![0; self.geometry.cluster_size() as usize];
        for (index, &word) in l1.iter().enumerate() {
            let Some(table) = L1Entry(word).table() else {
                continue;
            };
            if self.geometry.in_cluster(table) != 0 {
                return Err(Error::malformed(
                    "L1 entry",
                    table,
                    "L2 table offset unaligned",
                ));
            }
            self.file.read_at(&mut raw, table)?;
            each(index, table, &mut raw)?;
        }
        Ok(())
    }

    /// Calls `each` with every host cluster that the entries of an L2 table refer to.
    fn for_each_cluster(&self, raw: &[u8], mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        for bytes in raw.chunks_exact(self.geometry.l2_entry_size() as usize) {
            let entry = L2Entry {
                word: get_u64(bytes, 0),
                bitmap: 0,
            };
            if entry.compressed() {
                let CompressedRange { offset, length } = entry.compressed_range(&self.geometry);
                (offset >> bits..=(offset + length - 1) >> bits).try_for_each(&mut each)?;
            } else if let Some(host) = entry.host(&self.geometry) {
                if self.geometry.in_cluster(host) != 0 {
                    return Err(Error::malformed("L2 entry", host, "unaligned cluster"));
                }
                each(host >> bits)?;
            }
        }
        Ok(())
    }

    pub(super) fn active_l1(&self) -> Result<Vec<u64>> {
        (0..self.l1.len())
            .map(|index| self.l1.get(&*self.file, index))
            .collect()
    }

    /// Fails if any refcount that a snapshot would raise can not be.
    fn check_room_for_references(&self, state: &mut State) -> Result<()> {
        self.l2_tables(&self.active_l1()?, |_, table, raw| {
            state
                .refcounts
                .check_room(self.disk(), table >> self.geometry.cluster_bits)?;
            self.for_each_cluster(raw, |cluster| {
                state.refcounts.check_room(self.disk(), cluster)
            })
        })
    }

    /// Gives every cluster of the active tables one more reference, takes COPIED away from
    /// them, and writes the L1 entries to `place` for the snapshot.
    fn share_tables(&self, state: &mut State, place: u64, clusters: u64) -> Result<()> {
        let l1 = self.active_l1()?;
        // Without COPIED in L1 no write goes in place; those under way are waited for.
        for (index, &word) in l1.iter().enumerate() {
            if word & COPIED != 0 {
                self.set_l1(state, index as u64, word & !COPIED)?;
            }
        }
        self.epochs.wait();
        let width = self.geometry.l2_entry_size() as usize;
        self.l2_tables(&l1, |_, table, raw| {
            self.for_each_cluster(raw, |cluster| {
                state.refcounts.increase(self.disk(), cluster).map(drop)
            })?;
            state
                .refcounts
                .increase(self.disk(), table >> self.geometry.cluster_bits)?;
            let mut changed = false;
            for bytes in raw.chunks_exact_mut(width) {
                let word = get_u64(bytes, 0);
                if word & COPIED != 0 {
                    bytes[..8].copy_from_slice(&(word & !COPIED).to_be_bytes());
                    changed = true;
                }
            }
            if changed {
                self.file.write_at(raw, table)?;
                self.forget_table(state, table);
            }
            Ok(())
        })?;
        let mut copy = bytes::from_words(l1.iter().map(|word| word & !COPIED));
        copy.resize((clusters << self.geometry.cluster_bits) as usize, 0);
        self.file.write_at(&copy, place)?;
        self.insert_metadata(place, clusters)?;
        self.sync(state)
    }

    pub(super) fn read_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        snapshot.check_table(&self.geometry)?;
        let mut raw = vec![0; snapshot.l1_size as usize * 8];
        self.file.read_at(&mut raw, snapshot.l1_offset)?;
        Ok(bytes::words(&raw).collect())
    }

    /// Makes a copy of a snapshot's L1 entries at `place` the active table.
    fn switch_l1(
        &self,
        state: &mut State,
        table: &[u64],
        place: u64,
        entries: u64,
        size: u64,
    ) -> Result<()> {
        let old = self.active_l1()?;
        let (old_offset, old_len) = (self.l1.offset(), self.l1.len());
        self.l2_tables(table, |_, l2, raw| {
            state
                .refcounts
                .increase(self.disk(), l2 >> self.geometry.cluster_bits)?;
            self.for_each_cluster(raw, |cluster| {
                state.refcounts.increase(self.disk(), cluster).map(drop)
            })
        })?;
        let mut words: Vec<u64> = table.iter().map(|word| word & !COPIED).collect();
        words.resize(entries as usize, 0);
        let clusters = self.geometry.clusters(entries * 8);
        let mut raw = bytes::from_words(words.iter().copied());
        raw.resize((clusters << self.geometry.cluster_bits) as usize, 0);
        self.file.write_at(&raw, place)?;
        self.insert_metadata(place, clusters)?;
        self.sync(state)?;
        let bitmaps = size != self.size() && self.unstore_bitmaps(state, size)?;
        state.header.l1_offset = place;
        state.header.l1_size = entries as u32;
        state.header.size = size;
        self.write_header(state)?;
        self.file.sync()?;

        self.l1.replace(&*self.file, place, &words)?;
        self.set_size_in_memory(size);
        if bitmaps {
            self.resize_bitmaps(state, size)?;
        }
        // What the disk held before is gone: all of it counts as written.
        self.tracker.mark(0, size);
        self.l2.forget_all();
        // Nobody looks at the old tables any more.
        self.epochs.wait();
        self.l2.forget_all();
        self.drop_tables(state, &old)?;
        self.free_now(state, old_offset, self.geometry.clusters(old_len * 8))?;
        self.sync_all(state)
    }

    /// Takes one reference from every cluster that the L2 tables of some L1 entries name, and
    /// from the tables.
    fn drop_tables(&self, state: &mut State, l1: &[u64]) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let mut freed = Vec::new();
        self.l2_tables(l1, |_, table, raw| {
            self.for_each_cluster(raw, |cluster| {
                self.refuse_metadata(state, cluster << bits)?;
                if state.refcounts.decrease(self.disk(), cluster)? == 0 {
                    freed.push(cluster << bits);
                }
                Ok(())
            })?;
            if state.refcounts.decrease(self.disk(), table >> bits)? == 0 {
                self.forget_table(state, table);
                freed.push(table);
            }
            Ok(())
        })?;
        freed.sort_unstable();
        self.discard_clusters(&freed);
        Ok(())
    }

    /// Sets COPIED where only the active tables refer to a cluster now.
    pub(crate) fn restore_flags(&self, state: &mut State) -> Result<()> {
        self.sync(state)?;
        self.walk_flags(state, |_| true)
    }
}

fn next_id(list: &[Snapshot]) -> String {
    let largest = list
        .iter()
        .filter_map(|snapshot| snapshot.id.parse::<u64>().ok())
        .max();
    largest.unwrap_or(0).saturating_add(1).to_string()
}

/// The snapshot of this id, or else of this name.
pub(crate) fn find<'a>(list: &'a [Snapshot], id_or_name: &str) -> Result<&'a Snapshot> {
    list.iter()
        .find(|snapshot| snapshot.id == id_or_name)
        .or_else(|| list.iter().find(|snapshot| snapshot.name == id_or_name))
        .ok_or_else(|| Error::NotFound {
            what: "snapshot",
            name: id_or_name.into(),
        })
}
