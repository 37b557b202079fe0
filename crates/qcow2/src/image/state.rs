//! What only one thread at a time may touch, and its way to the disk.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::Image;
use super::flush::{FlushCount, Flushing};
use crate::bitmap::Bitmap;
use crate::cache::slices::Updated;
use crate::cache::table::PAGE;
use crate::check::{Finding, FindingKind};
use crate::error::{Error, Result};
use crate::format::entry::{CompressedRange, L2Entry};
use crate::format::{Header, Incompatible};
use crate::refcount::{Allocated, Disk, REFCOUNT_TABLE_ENTRY, Refcounts};

/// More clusters than this do not wait for the guest's next flush to be freed.
const MAX_UNLINKED: usize = 1 << 16;

/// The part of an image that its lock guards.
pub(crate) struct State {
    pub(crate) header: Header,
    pub(crate) refcounts: Refcounts,
    /// Host offsets of L2 slices that differ from the disk.
    pub(crate) dirty_slices: BTreeSet<u64>,
    /// Pages of the L1 table that differ from the disk.
    pub(crate) dirty_l1: BTreeSet<u64>,
    /// References dropped from tables in memory, host offsets of clusters.
    pub(crate) unlinked: Vec<u64>,
    /// References dropped durably; the epoch says who may still use the clusters.
    pub(super) reclaim: VecDeque<(u64, Vec<u64>)>,
    /// The flush that is under way.
    pub(super) flushing: Option<Flushing>,
    pub(super) flushes: FlushCount,
    /// Guest ranges (start, end) whose clusters are being written before they are linked.
    pub(crate) in_flight: Vec<(u64, u64)>,
    /// Threads that wait for one of them.
    waiting: usize,
    /// Threads that wait until there is none.
    waiting_for_all: usize,
    /// The preparations for the first write are done.
    pub(crate) prepared: bool,
    /// The preparations were begun.
    pub(crate) attempted: bool,
    /// They were done at some time: closing has to store what is kept in memory only.
    pub(crate) written: bool,
    /// The dirty bit was set for lazy refcounts of this handle, and goes when it closes.
    pub(crate) lazy: bool,
    /// The persistent bitmaps, once loaded.
    pub(crate) bitmaps: Option<Vec<Arc<Bitmap>>>,
}

impl State {
    pub(crate) fn new(header: Header, file_end: u64) -> Self {
        Self {
            refcounts: Refcounts::new(&header, file_end),
            header,
            dirty_slices: BTreeSet::new(),
            dirty_l1: BTreeSet::new(),
            unlinked: Vec::new(),
            reclaim: VecDeque::new(),
            flushing: None,
            flushes: FlushCount::default(),
            in_flight: Vec::new(),
            waiting: 0,
            waiting_for_all: 0,
            prepared: false,
            attempted: false,
            written: false,
            lazy: false,
            bitmaps: None,
        }
    }

    fn is_dirty(&self) -> bool {
        !self.dirty_slices.is_empty() || !self.dirty_l1.is_empty() || self.refcounts.is_dirty()
    }

    /// Whether a flush has more to do than to make data durable.
    pub(super) fn waits_for_flush(&self) -> bool {
        self.is_dirty() || !self.unlinked.is_empty() || !self.reclaim.is_empty()
    }
}

impl Image {
    pub(crate) fn disk(&self) -> Disk<'_> {
        Disk {
            file: &*self.file,
            metadata: &self.metadata,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change the disk's size.
    pub(crate) fn lock_size(&self) -> RwLockWriteGuard<'_, ()> {
        let locked = self.resizing.write();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the disk's size as it is.
    pub(crate) fn hold_size(&self) -> RwLockReadGuard<'_, ()> {
        let held = self.resizing.read();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, ready for changes to the image.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Broken`], or what the first look at all metadata finds.
    pub(crate) fn lock_to_write(&self) -> Result<MutexGuard<'_, State>> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        let mut state = self.lock();
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Broken);
        }
        if !state.prepared {
            self.prepare(&mut state)?;
        }
        Ok(state)
    }

    /// The state, with no allocating write and no flush under way: for operations on the whole
    /// image.
    pub(crate) fn lock_alone(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock_to_write()?;
        let mut state = self.wait_for_all(state);
        self.take_back(&mut state);
        Ok(state)
    }

    /// Waits until no allocating write is under way in the guest range, and until those who wait for
    /// all have had their turn.
    pub(crate) fn wait_for<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        start: u64,
        end: u64,
    ) -> MutexGuard<'a, State> {
        let overlaps = |&(s, e): &(u64, u64)| s < end && start < e;
        while state.waiting_for_all > 0 || state.in_flight.iter().any(overlaps) {
            state = self.wait_to_land(state);
        }
        state
    }

    /// Waits until no allocating write is under way. None begins meanwhile.
    pub(crate) fn wait_for_all<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        state.waiting_for_all += 1;
        while !state.in_flight.is_empty() {
            state = self.wait_to_land(state);
        }
        state.waiting_for_all -= 1;
        if state.waiting > 0 {
            self.landed.notify_all();
        }
        state
    }

    fn wait_to_land<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        state = self
            .landed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    /// Ends an allocating write that is in flight in `range`.
    pub(crate) fn land(&self, state: &mut State, range: (u64, u64)) {
        state.in_flight.retain(|&other| other != range);
        // A system call, for which there is mostly nobody.
        if state.waiting > 0 {
            self.landed.notify_all();
        }
    }

    /// Passes an error on; one that shows the image to be corrupt marks it so and ends all
    /// writing.
    pub(crate) fn judge<T>(&self, state: &mut State, result: Result<T>) -> Result<T> {
        let fault = match &result {
            Err(Error::Overlap { structure, .. }) => Some(format!(
                "Preventing invalid write on metadata (overlaps with {structure})"
            )),
            Err(error @ Error::InvalidAllocation { .. }) => Some(error.to_string()),
            Err(Error::Malformed {
                structure: REFCOUNT_TABLE_ENTRY,
                reason,
                ..
            }) => Some(reason.clone()),
            _ => None,
        };
        if let Some(fault) = fault {
            self.broken.store(true, Ordering::Release);
            if let Some(tell) = &self.on_finding {
                tell(&Finding {
                    kind: FindingKind::Corruption,
                    text: format!(
                        "qcow2: Marking image as corrupt: {fault}; further corruption events will \
                         be suppressed"
                    ),
                });
            }
            if state.header.version >= 3 {
                state.header.incompatible = state.header.incompatible.with(Incompatible::CORRUPT);
                // The refused write is the news; a mark that can not be set changes nothing.
                let _ = self.write_header(state).and_then(|()| self.file.sync());
            }
        }
        result
    }

    /// Runs an operation that leaves memory and disk apart if it fails; the handle is broken then.
    pub(crate) fn or_break<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        result
    }

    /// 1 to `most` adjacent clusters of the image file, for `what`.
    pub(crate) fn allocate(
        &self,
        state: &mut State,
        what: &'static str,
        most: u64,
    ) -> Result<Allocated> {
        self.make_countable(state, 1)?;
        let result = state.refcounts.allocate(self.disk(), what, most);
        self.judge(state, result)
    }

    /// Exactly `count` adjacent clusters of the image file, for `what`.
    pub(crate) fn allocate_exact(
        &self,
        state: &mut State,
        what: &'static str,
        count: u64,
    ) -> Result<Allocated> {
        self.make_countable(state, count)?;
        let result = state.refcounts.allocate_exact(self.disk(), what, count);
        self.judge(state, result)
    }

    /// Grows the refcount table before `clusters` more would not fit it.
    fn make_countable(&self, state: &mut State, clusters: u64) -> Result<()> {
        if !state.refcounts.must_grow(clusters) {
            return Ok(());
        }
        // A flush under way would write pages of the table to its old place.
        self.take_back(state);
        let moved = self.or_break(state.refcounts.grow(self.disk(), clusters))?;
        let done = state
            .refcounts
            .write_blocks(self.disk())
            .and_then(|()| self.file.sync())
            .and_then(|()| {
                state.header.refcount_table_offset = moved.offset;
                state.header.refcount_table_clusters = moved.clusters;
                self.write_header(state)
            })
            .and_then(|()| self.file.sync())
            .and_then(|()| state.refcounts.moved(self.disk(), moved));
        self.or_break(done)
    }

    /// Frees clusters that no table on the disk ever named.
    pub(crate) fn free_now(&self, state: &mut State, offset: u64, clusters: u64) -> Result<()> {
        let first = offset >> self.geometry.cluster_bits;
        (first..first + clusters)
            .try_for_each(|cluster| state.refcounts.decrease(self.disk(), cluster).map(drop))
    }

    /// Puts what an L2 entry referred to on the list of clusters to free.
    ///
    /// # Errors
    /// [`Error::Overlap`] if that is metadata.
    pub(crate) fn unlink(&self, state: &mut State, entry: L2Entry) -> Result<()> {
        if entry.compressed() {
            let CompressedRange { offset, length } = entry.compressed_range(&self.geometry);
            let last = self.geometry.cluster_start(offset + length - 1);
            let mut at = self.geometry.cluster_start(offset);
            while at <= last {
                self.refuse_metadata(state, at)?;
                state.unlinked.push(at);
                at += self.geometry.cluster_size();
            }
        } else if let (Some(host), false) = (entry.host(&self.geometry), self.geometry.data_file) {
            self.refuse_metadata(state, host)?;
            state.unlinked.push(host);
        }
        Ok(())
    }

    /// Loads the slice at `slice` with the state held.
    pub(crate) fn load_slice(&self, state: &mut State, slice: u64) -> Result<()> {
        while self.try_load(slice)?.is_err() {
            self.sync(state)?;
        }
        Ok(())
    }

    /// The L2 entry of a guest cluster.
    pub(crate) fn entry(&self, state: &mut State, offset: u64) -> Result<L2Entry> {
        let Some(place) = self.place(offset)? else {
            return Ok(L2Entry::default());
        };
        let entry = loop {
            match self.l2.view(place.slice, |view| view.entry(place.index)) {
                Some(entry) => break entry,
                None => self.load_slice(state, place.slice)?,
            }
        };
        self.check_entry(entry, place)?;
        Ok(entry)
    }

    /// Changes the L2 entry of a guest cluster, whose L2 table is writable.
    pub(crate) fn set_entry(&self, state: &mut State, offset: u64, entry: L2Entry) -> Result<()> {
        let place = self.place(offset)?.ok_or(Error::Broken)?;
        loop {
            match self.l2.update(place.slice, place.index, entry) {
                Updated::Absent => self.load_slice(state, place.slice)?,
                Updated::Again => return Ok(()),
                Updated::NewlyDirty => {
                    state.dirty_slices.insert(place.slice);
                    return Ok(());
                }
            }
        }
    }

    /// Changes an L1 entry.
    pub(crate) fn set_l1(&self, state: &mut State, index: u64, value: u64) -> Result<()> {
        self.l1.set(&*self.file, index, value)?;
        state.dirty_l1.insert(index / PAGE);
        Ok(())
    }

    /// Frees the clusters that nobody can be using any more.
    pub(super) fn reclaim(&self, state: &mut State) -> Result<()> {
        if state.reclaim.is_empty() {
            return Ok(());
        }
        self.epochs.advance();
        let now = self.epochs.advance();
        while state
            .reclaim
            .front()
            .is_some_and(|(epoch, _)| epoch + 2 <= now)
        {
            let Some((epoch, mut list)) = state.reclaim.pop_front() else {
                break;
            };
            list.sort_unstable();
            let (freed, result) = self.free_list(state, &list);
            if result.is_err() {
                list.drain(..freed);
                if !list.is_empty() {
                    // What was not freed is tried again with the next flush.
                    state.reclaim.push_front((epoch, list));
                }
                return result;
            }
        }
        Ok(())
    }

    /// Drops one reference for each entry of a sorted list; returns how many are done with, too.
    fn free_list(&self, state: &mut State, list: &[u64]) -> (usize, Result<()>) {
        self.discard_last(state, list);
        for (number, offset) in list.iter().enumerate() {
            let cluster = offset >> self.geometry.cluster_bits;
            if let Err(error) = state.refcounts.decrease(self.disk(), cluster) {
                // An entry that is wrong stays wrong; one that could not be read may be well.
                let done = number + usize::from(error.io().is_none());
                return (done, Err(error));
            }
        }
        (list.len(), Ok(()))
    }

    /// Gives the host back the clusters of a sorted list whose last reference goes, before they
    /// can be allocated again. Those whose refcount can not be read keep their space.
    fn discard_last(&self, state: &mut State, list: &[u64]) {
        if !self.pass_discards {
            return;
        }
        let mut last = Vec::new();
        for group in list.chunk_by(|a, b| a == b) {
            let cluster = group[0] >> self.geometry.cluster_bits;
            let count = state.refcounts.get(self.disk(), cluster);
            if count.is_ok_and(|count| count == group.len() as u64) {
                last.push(group[0]);
            }
        }
        self.discard_clusters(&last);
    }

    /// Gives the clusters of a sorted list back to the host.
    pub(crate) fn discard_clusters(&self, list: &[u64]) {
        if !self.pass_discards {
            return;
        }
        let size = self.geometry.cluster_size();
        for run in list.chunk_by(|a, b| a + size == *b) {
            // Space that stays taken is no error of the request.
            let _ = self.file.discard(run[0], run.len() as u64 * size);
        }
    }

    /// Frees everything that waits for it, waiting for requests under way.
    pub(crate) fn sync_all(&self, state: &mut State) -> Result<()> {
        self.sync(state)?;
        while !state.reclaim.is_empty() {
            self.epochs.wait();
            self.reclaim(state)?;
        }
        if state.is_dirty() {
            self.sync(state)
        } else {
            Ok(())
        }
    }

    /// Lets go of the state after a change, and keeps the list of clusters to free short by a
    /// flush for which nobody else waits.
    pub(crate) fn release(&self, state: MutexGuard<'_, State>) -> Result<()> {
        let long = state.unlinked.len() >= MAX_UNLINKED;
        drop(state);
        if long { self.flush() } else { Ok(()) }
    }

    /// Flushes, stores what is kept in memory only, and marks the image clean. Nothing may be
    /// written afterwards. Dropping an image does this too, but can not tell of errors.
    ///
    /// # Errors
    /// [`Error::Io`]; the image stays open, and closing may be tried again. [`Error::Broken`].
    pub fn close(&self) -> Result<()> {
        let state = self.lock();
        if !self.writable || self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Broken);
        }
        if state.attempted {
            self.check_inactive(&state)?;
        }
        if !state.written {
            self.closed.store(true, Ordering::Release);
            return Ok(());
        }
        let mut state = self.wait_for_all(state);
        self.settle(&mut state)?;
        self.broken.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    /// Stores what is kept in memory only, and takes away the marks of an image that is being
    /// written; the next write sets them again. Nothing may be in flight.
    pub(crate) fn settle(&self, state: &mut State) -> Result<()> {
        if !state.prepared {
            self.prepare(state)?;
        }
        // Writes in place wait for the state like all others from here on.
        self.ready.store(false, Ordering::Release);
        let lazy = std::mem::take(&mut state.lazy);
        let done = self.store_all(state, lazy);
        if done.is_err() {
            state.lazy = lazy && state.header.incompatible.has(Incompatible::DIRTY);
        }
        state.prepared = false;
        done
    }

    /// Makes everything durable that is kept in memory only.
    fn store_all(&self, state: &mut State, lazy: bool) -> Result<()> {
        self.sync_all(state)?;
        if state.bitmaps.as_ref().is_some_and(|list| !list.is_empty()) {
            // Whoever saw that it may write in place has marked that.
            self.epochs.wait();
            self.store_bitmaps(state, 0)?;
            self.sync_all(state)?;
        }
        if lazy {
            self.clear_dirty(state)
        } else {
            Ok(())
        }
    }

    /// Lets go of the image as it is, as a crash would: nothing is written any more.
    pub fn abandon(&self) {
        self.broken.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
    }
}
