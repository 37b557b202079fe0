//! What comes before the first write to an image: a look at all of its metadata, so that no
//! later write can hit it.

use std::sync::atomic::Ordering;

use super::Image;
use super::state::State;
use crate::bitmap;
use crate::check::for_each_word;
use crate::error::{Error, Result};
use crate::format::entry::L1Entry;
use crate::format::{Autoclear, Compatible, Incompatible};
use crate::refcount::unaligned_block;
use crate::snapshot;

impl Image {
    pub(crate) fn prepare(&self, state: &mut State) -> Result<()> {
        state.attempted = true;
        self.check_inactive(state)?;
        let result = self.collect_metadata(state);
        self.judge(state, result)?;
        let before = (state.header.autoclear, state.header.incompatible);
        if let Err(error) = self.prepare_header(state) {
            // The disk does not say it, so the next try must.
            (state.header.autoclear, state.header.incompatible) = before;
            state.lazy = false;
            return Err(error);
        }
        self.begin_tracking(state)?;
        state.prepared = true;
        state.written = true;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the header say what is true once the image is written.
    fn prepare_header(&self, state: &mut State) -> Result<()> {
        let header = &mut state.header;
        let before = (header.autoclear, header.incompatible);
        header.autoclear = Autoclear(header.autoclear.0 & Autoclear::KNOWN.0);
        let asked = header.compatible.has(Compatible::LAZY_REFCOUNTS);
        let lazy = self.lazy_refcounts.unwrap_or(asked) && header.version >= 3;
        if lazy && !header.incompatible.has(Incompatible::DIRTY) {
            header.incompatible = header.incompatible.with(Incompatible::DIRTY);
            state.lazy = true;
        }
        if before != (state.header.autoclear, state.header.incompatible) {
            self.write_header(state)?;
            self.file.sync()?;
        }
        Ok(())
    }

    /// Fails if the caller wants inactive tables protected and one lies nowhere.
    pub(crate) fn check_inactive(&self, state: &State) -> Result<()> {
        if !self.check_inactive_l2 {
            return Ok(());
        }
        let (list, _) = snapshot::read_table(&*self.file, &state.header)?;
        list.iter()
            .try_for_each(|entry| entry.check_table(&self.geometry))
    }

    /// Fills the set of clusters that no data may be written to. Two structures in one cluster
    /// are found here.
    fn collect_metadata(&self, state: &State) -> Result<()> {
        let header = &state.header;
        let bits = self.geometry.cluster_bits;
        let size = self.geometry.cluster_size();
        let add = |structure, offset: u64, length: u64, may_be_there: bool| {
            for cluster in offset >> bits..self.geometry.clusters(offset.saturating_add(length)) {
                if self.metadata.contains(cluster) && !may_be_there {
                    return Err(Error::Overlap {
                        structure,
                        offset: cluster << bits,
                        length: size,
                    });
                }
                self.metadata.insert(cluster)?;
            }
            Ok(())
        };
        // A second try after an error starts from nothing.
        self.metadata.clear();
        add("main header", 0, size, false)?;
        add(
            "active L1 table",
            header.l1_offset,
            u64::from(header.l1_size) * 8,
            false,
        )?;
        let table = u64::from(header.refcount_table_clusters) << bits;
        add("refcount table", header.refcount_table_offset, table, false)?;
        if let Some(place) = header.crypto_header() {
            add("encryption header", place.offset, place.length, false)?;
        }
        let table = &state.refcounts.table;
        table.for_each(&*self.file, |index, entry| {
            if self.geometry.in_cluster(entry) != 0 {
                return Err(unaligned_block(table.offset(), index, entry));
            }
            if entry == 0 {
                Ok(())
            } else {
                add("refcount block", entry, size, false)
            }
        })?;
        self.l1.for_each(&*self.file, |_, entry| {
            let table = L1Entry(entry)
                .table()
                .map(|table| self.geometry.cluster_start(table));
            table.map_or(Ok(()), |table| add("active L2 table", table, size, false))
        })?;
        let (list, bytes) = snapshot::read_table(&*self.file, header)?;
        add("snapshot table", header.snapshots_offset, bytes, false)?;
        // What lies nowhere cannot be protected; it fails when it is used.
        for entry in list
            .iter()
            .filter(|entry| entry.check_table(&self.geometry).is_ok())
        {
            let entries = u64::from(entry.l1_size);
            add("inactive L1 table", entry.l1_offset, entries * 8, false)?;
            // Tables are shared between snapshots and with the active ones.
            for_each_word(&*self.file, entry.l1_offset, entries, |_, word| {
                let table = L1Entry(word)
                    .table()
                    .map(|table| self.geometry.cluster_start(table));
                table.map_or(Ok(()), |table| add("inactive L2 table", table, size, true))
            })?;
        }
        for (offset, length) in bitmap::references(&*self.file, header)? {
            add("bitmap", offset, length, false)?;
        }
        Ok(())
    }
}
