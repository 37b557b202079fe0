//! Making changes durable.
//!
//! A flush sets aside what is changed in memory when it begins, and writes that in stages with a
//! barrier (the storage's flush) after each, so that a crash between any two leaves at most leaks:
//! refcount blocks, with all data; the refcount table's entries for new blocks; L2 and L1 tables.
//! Then dropped references are given up.
//!
//! All writing happens with the state held, and the barriers of [`Image::flush`] without it, so
//! that reading, overwriting and allocating go on meanwhile. What they change is for the next
//! flush: the tables are written as they were set aside, for what has been added since may name
//! clusters whose data and refcounts no barrier has covered.
//!
//! Operations that hold the state over all of their stages ([`Image::sync`]) take over what a
//! flush under way has set aside. Its thread learns of that after its barrier and writes nothing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::Image;
use super::state::State;
use crate::error::{Error, IoContext, Result};

/// Host offsets and what is to be written there.
type Writes = Vec<(u64, Vec<u8>)>;

/// What a flush has set aside.
pub(crate) struct Flushing {
    number: u64,
    /// What is to be written before each of the barriers to come. The first is always due: data
    /// is not among the writes.
    stages: std::vec::IntoIter<Writes>,
    slices: BTreeSet<u64>,
    l1_pages: BTreeSet<u64>,
    unlinked: Vec<u64>,
}

/// Numbers of flushes, in the order in which they began.
#[derive(Default)]
pub(crate) struct FlushCount {
    begun: u64,
    /// The last one that ended well. It made all durable that was written before it began.
    done: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Barrier {
    Data,
    Metadata,
}

impl Image {
    /// Makes everything written before this call durable.
    ///
    /// # Errors
    /// [`Error::Io`]; the changes stay in memory and a later flush tries again.
    pub fn flush(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        let mut state = self.lock();
        let wanted = state.flushes.begun + 1;
        while state.flushes.done < wanted {
            if self.broken.load(Ordering::Acquire) {
                return Err(Error::Broken);
            }
            if state.flushing.is_some() {
                state = self
                    .flushed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if !state.waits_for_flush() {
                drop(state);
                return self.sync_storage();
            }
            self.begin_flush(&mut state)?;
            state = self.flush_unlocked(state)?;
        }
        Ok(())
    }

    /// Brings the flush that has begun to its end, unless somebody takes it over.
    fn flush_unlocked<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        let number = state.flushes.begun;
        loop {
            let stage = self.write_stage(&mut state);
            let Some(barrier) = self.or_take_back(&mut state, stage)? else {
                self.end_flush(&mut state)?;
                return Ok(state);
            };
            drop(state);
            let done = self.barrier(barrier);
            state = self.lock();
            if state.flushing.as_ref().map(|flush| flush.number) != Some(number) {
                return done.map(|()| state);
            }
            let done = match self.broken.load(Ordering::Acquire) {
                true => Err(Error::Broken),
                false => done,
            };
            self.or_take_back(&mut state, done)?;
        }
    }

    /// [`Image::flush`] for who holds the state and shall not let go of it.
    pub(crate) fn sync(&self, state: &mut State) -> Result<()> {
        self.take_back(state);
        self.begin_flush(state)?;
        loop {
            let stage = self.write_stage(state);
            let Some(barrier) = self.or_take_back(state, stage)? else {
                return self.end_flush(state);
            };
            let done = self.barrier(barrier);
            self.or_take_back(state, done)?;
        }
    }

    /// Writes refcount blocks, and sets aside all that is to be written after them.
    fn begin_flush(&self, state: &mut State) -> Result<()> {
        let end = state.refcounts.file_end;
        if self.file.size()? < end {
            // Tables and data may end with bytes that were never written.
            self.file.set_len(end).context("grow to", end, 0)?;
        }
        let mut counts = Writes::new();
        if !state.lazy {
            // Else the dirty bit says that refcounts are made anew should this stop here.
            counts = state.refcounts.begin_flush(self.disk())?;
        }
        state.flushes.begun += 1;
        let slices = std::mem::take(&mut state.dirty_slices);
        let l1_pages = std::mem::take(&mut state.dirty_l1);
        let unlinked = std::mem::take(&mut state.unlinked);
        let tables: Result<Writes> = slices
            .iter()
            .map(|slice| Ok((*slice, self.l2.begin_flush(*slice).ok_or(Error::Broken)?)))
            .chain(
                l1_pages
                    .iter()
                    .map(|page| self.l1.page_bytes(&*self.file, *page)),
            )
            .collect();
        let (tables, result) = match tables {
            Ok(tables) => (tables, Ok(())),
            Err(error) => (Writes::new(), Err(error)),
        };
        state.flushing = Some(Flushing {
            number: state.flushes.begun,
            stages: vec![Writes::new(), counts, tables].into_iter(),
            slices,
            l1_pages,
            unlinked,
        });
        self.or_take_back(state, result)
    }

    /// Writes the next stage and says which barrier must follow; None if all are done.
    fn write_stage(&self, state: &mut State) -> Result<Option<Barrier>> {
        let Some(flush) = &mut state.flushing else {
            return Ok(None);
        };
        // All three are there before the first barrier.
        if flush.stages.len() == 3 {
            flush.stages.next();
            return Ok(Some(Barrier::Data));
        }
        for writes in flush.stages.by_ref() {
            for (offset, bytes) in &writes {
                self.file.write_at(bytes, *offset)?;
            }
            if !writes.is_empty() {
                return Ok(Some(Barrier::Metadata));
            }
        }
        Ok(None)
    }

    fn barrier(&self, barrier: Barrier) -> Result<()> {
        match barrier {
            Barrier::Data => self.sync_storage(),
            Barrier::Metadata => self.file.sync(),
        }
    }

    /// Makes data and whatever else was written durable.
    fn sync_storage(&self) -> Result<()> {
        if self.geometry.data_file {
            self.data.sync()?;
        }
        self.file.sync()
    }

    /// After the last barrier: nothing on the disk names what was unlinked.
    fn end_flush(&self, state: &mut State) -> Result<()> {
        let Some(flush) = state.flushing.take() else {
            return Ok(());
        };
        state.flushes.done = flush.number;
        flush
            .slices
            .iter()
            .for_each(|slice| self.l2.end_flush(*slice));
        state.refcounts.end_flush();
        if !flush.unlinked.is_empty() {
            state.reclaim.push_back((self.epochs.now(), flush.unlinked));
        }
        self.flushed.notify_all();
        self.reclaim(state)
    }

    fn or_take_back<T>(&self, state: &mut State, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.take_back(state);
        }
        result
    }

    /// Ends a flush that is under way: what it had set aside is to be written by the next one.
    pub(crate) fn take_back(&self, state: &mut State) {
        let Some(mut flush) = state.flushing.take() else {
            return;
        };
        flush
            .slices
            .iter()
            .for_each(|slice| self.l2.take_back(*slice));
        state.refcounts.take_back();
        state.dirty_slices.append(&mut flush.slices);
        state.dirty_l1.append(&mut flush.l1_pages);
        state.unlinked.append(&mut flush.unlinked);
        self.flushed.notify_all();
    }
}
