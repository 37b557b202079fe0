//! Growing and shrinking the disk, and giving it space ahead of writes.

use std::sync::atomic::Ordering;

use super::Image;
use super::state::State;
use super::write::Area;
use crate::create::Preallocation;
use crate::error::{Error, IoContext, Result};
use crate::format::entry::{COPIED, L1Entry, L2Entry};
use crate::format::geometry::MAX_L1_BYTES;

impl Image {
    /// Changes the disk's size, in bytes, a multiple of 512. Data past a new end is given up;
    /// new space reads as zeroes. It is for requests that begin when this has returned.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::TooLarge`]; [`Error::Unsupported`] when the image has
    /// snapshots and version 2, which can not store their sizes; else as [`Image::write_at`].
    pub fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        if !size.is_multiple_of(512) {
            return Err(Error::Invalid(
                "The new size must be a multiple of 512".into(),
            ));
        }
        self.check_write(0, 0)?;
        let _alone = self.lock_size();
        let old = self.size();
        let entries = self.geometry.l1_entries(size);
        if entries > MAX_L1_BYTES / 8 || size > i64::MAX as u64 {
            return Err(Error::TooLarge {
                what: "image size",
                value: size,
                limit: self.geometry.max_size(),
            });
        }
        {
            let state = self.lock_alone()?;
            if state.header.version < 3 && state.header.snapshot_count > 0 {
                return Err(Error::Unsupported(
                    "Can't resize a v2 image which has snapshots".into(),
                ));
            }
        }
        if size < old {
            self.shrink(old, size)?
        } else {
            self.grow(old, size)?
        }
        if size > old && preallocation != Preallocation::Off {
            self.preallocate(old, size, preallocation)?;
        }
        Ok(())
    }

    fn shrink(&self, old: u64, size: u64) -> Result<()> {
        // New requests see the new end from here on; those under way are waited for below.
        self.size.store(size, Ordering::Release);
        let cut = self.cut(size);
        if cut.is_err() {
            self.size.store(old, Ordering::Release);
        }
        cut?;
        if self.geometry.data_file {
            // A write in place from before would make the file longer again.
            let _state = self.lock();
            self.epochs.wait();
            self.data.set_len(size).context("truncate to", size, 0)?;
        }
        Ok(())
    }

    /// Gives up all data and tables past a new end, and then makes it the end. Should this stop
    /// half-way, the disk has kept its size.
    fn cut(&self, size: u64) -> Result<()> {
        let from = size.next_multiple_of(self.geometry.cluster_size());
        self.drop_clusters(from, self.l1.len() << self.geometry.l1_shift())?;
        let mut state = self.lock_alone()?;
        for index in self.geometry.l1_entries(size)..self.l1.len() {
            let entry = L1Entry(self.l1.get(&*self.file, index)?);
            if let Some(table) = entry.table() {
                self.set_l1(&mut state, index, 0)?;
                self.forget_table(&mut state, table);
                state.unlinked.push(table);
            }
        }
        self.sync(&mut state)?;
        self.set_size(&mut state, size)
    }

    fn grow(&self, old: u64, size: u64) -> Result<()> {
        // What a backing file or stale bytes hold past the old end must not show.
        let boundary = old.next_multiple_of(self.geometry.cluster_size());
        let tail = boundary.min(size);
        let mut state = self.lock_alone()?;
        let entries = self.geometry.l1_entries(size);
        if entries > self.l1.len() {
            self.move_l1(&mut state, entries)?;
        }
        if self.geometry.data_file && self.data.size()? < size {
            self.data.set_len(size).context("grow to", size, 0)?;
        }
        drop(state);
        // Tables that reach past the old end may name what another program left there. The cluster
        // that holds the old end also holds data of the disk, and stays.
        self.drop_clusters(
            boundary,
            size.next_multiple_of(self.geometry.cluster_size()),
        )?;
        // The size is raised only once the new space reads as zeroes: an overlay that is longer
        // already would show what is there until then.
        self.zero_new(old, tail, size)?;
        let mut state = self.lock_alone()?;
        self.sync(&mut state)?;
        self.set_size(&mut state, size)
    }

    fn zero_new(&self, old: u64, tail: u64, size: u64) -> Result<()> {
        if old < tail && !self.reads_as_zero(old, tail - old)? {
            self.write_in(Area::PastEnd, &vec![0; (tail - old) as usize], old)?;
        }
        if tail < size && !self.backing_ends_before(tail) {
            self.zero_past_end(tail, size.next_multiple_of(self.geometry.cluster_size()))?;
        }
        Ok(())
    }

    /// Makes a new size durable. Stored bitmaps leave the image first, as their size would not
    /// fit, and come back with the new one.
    fn set_size(&self, state: &mut State, size: u64) -> Result<()> {
        let bitmaps = self.unstore_bitmaps(state, size)?;
        let before = state.header.size;
        state.header.size = size;
        let done = self.write_header(state).and_then(|()| self.file.sync());
        if done.is_err() {
            state.header.size = before;
        }
        self.or_break(done)?;
        self.size.store(size, Ordering::Release);
        if bitmaps {
            self.resize_bitmaps(state, size)
        } else {
            Ok(())
        }
    }

    /// Forgets the cached slices of an L2 table that is given up.
    pub(crate) fn forget_table(&self, state: &mut State, table: u64) {
        let end = table + self.geometry.cluster_size();
        let mut slice = table;
        while slice < end {
            self.l2.forget(slice);
            state.dirty_slices.remove(&slice);
            slice += self.slice_size;
        }
    }

    /// Moves the L1 table to a longer place.
    pub(crate) fn move_l1(&self, state: &mut State, entries: u64) -> Result<()> {
        let geometry = &self.geometry;
        self.l1.load_all(&*self.file)?;
        self.sync(state)?;
        let clusters = geometry.clusters(entries * 8);
        let got = self.allocate_exact(state, "L1 table", clusters)?;
        let (old_offset, old_len) = (self.l1.offset(), self.l1.len());
        let mut raw = self.l1.to_bytes(&*self.file)?;
        raw.resize((clusters << geometry.cluster_bits) as usize, 0);
        let written = self
            .file
            .write_at(&raw, got.offset)
            .and_then(|()| self.sync(state));
        if let Err(error) = written {
            self.free_now(state, got.offset, clusters)?;
            return Err(error);
        }
        state.header.l1_offset = got.offset;
        state.header.l1_size = entries as u32;
        let done = self.write_header(state).and_then(|()| self.file.sync());
        self.or_break(done)?;
        let first = got.offset >> geometry.cluster_bits;
        (first..first + clusters).try_for_each(|cluster| self.metadata.insert(cluster))?;
        self.l1.relocate(&*self.file, got.offset, entries)?;
        self.free_now(state, old_offset, geometry.clusters(old_len * 8))
    }

    /// Gives the guest range `from..to` its clusters.
    pub(crate) fn preallocate(&self, from: u64, to: u64, mode: Preallocation) -> Result<()> {
        let size = self.geometry.cluster_size();
        let mut at = self.geometry.cluster_start(from);
        while at < to {
            let mut state = self.lock_alone()?;
            let end = to.min((at | ((1 << self.geometry.l1_shift()) - 1)).saturating_add(1));
            self.writable_table(&mut state, at)?;
            let old = self.entry(&mut state, at)?;
            if old.host(&self.geometry).is_some() || old.compressed() {
                at += size;
                continue;
            }
            let wanted = self
                .geometry
                .clusters(end - at)
                .min(u64::from(u32::MAX) / size)
                .max(1);
            let (host, clusters) = if self.geometry.data_file {
                (at, wanted)
            } else {
                let got = self.allocate(&mut state, "data cluster", wanted)?;
                self.reserve(
                    got.offset,
                    got.clusters << self.geometry.cluster_bits,
                    mode,
                    got.fresh,
                )?;
                (got.offset, got.clusters)
            };
            if self.geometry.data_file {
                let length = (wanted << self.geometry.cluster_bits).min(to - at);
                self.reserve(host, length, mode, true)?;
            }
            for number in 0..clusters {
                let distance = number << self.geometry.cluster_bits;
                let word = (host + distance) | COPIED;
                let bitmap = self.entry(&mut state, at + distance)?.bitmap;
                self.set_entry(&mut state, at + distance, self.preallocated(word, bitmap))?;
            }
            at += clusters << self.geometry.cluster_bits;
        }
        let mut state = self.lock_alone()?;
        let end = state.refcounts.file_end;
        if !self.geometry.data_file && self.file.size()? < end {
            self.file.set_len(end).context("grow to", end, 0)?;
        }
        self.sync(&mut state)
    }

    /// The entry of a cluster that got space and was never written: data that reads as zeroes,
    /// or subclusters that stay what they were.
    fn preallocated(&self, word: u64, bitmap: u64) -> L2Entry {
        L2Entry {
            word,
            bitmap: if self.geometry.extended_l2 { bitmap } else { 0 },
        }
    }

    fn reserve(&self, offset: u64, length: u64, mode: Preallocation, fresh: bool) -> Result<()> {
        match mode {
            Preallocation::Off | Preallocation::Metadata if fresh => Ok(()),
            Preallocation::Falloc if fresh => self
                .data
                .allocate(offset, length)
                .context("reserve", offset, length),
            Preallocation::Full => crate::storage::write_zero_bytes(&*self.data, offset, length)
                .context("zero", offset, length),
            _ => self
                .data
                .write_zeroes(offset, length, false)
                .context("zero", offset, length),
        }
    }
}
