//! Which structure a refused write would have hit, in QEMU's nine classes.

use super::Image;
use super::state::State;
use crate::bitmap;
use crate::check::for_each_word;
use crate::error::{Error, Result};
use crate::format::entry::OFFSET_MASK;
use crate::snapshot;

impl Image {
    /// Fails, and marks the image corrupt, if data would go to a cluster of metadata.
    pub(crate) fn refuse_metadata(&self, state: &mut State, host: u64) -> Result<()> {
        if self.geometry.data_file || !self.metadata.contains(host >> self.geometry.cluster_bits) {
            return Ok(());
        }
        let length = self.geometry.cluster_size();
        let structure = self.structure_at(state, host).unwrap_or("metadata");
        self.judge(
            state,
            Err(Error::Overlap {
                structure,
                offset: host,
                length,
            }),
        )
    }

    /// The name of the structure in the cluster at `host`. An error in finding out is no news
    /// beside the one that is being told.
    fn structure_at(&self, state: &State, host: u64) -> Option<&'static str> {
        let header = &state.header;
        let size = self.geometry.cluster_size();
        let host = self.geometry.cluster_start(host);
        let within =
            |offset: u64, length: u64| host + size > offset && host < offset.saturating_add(length);
        if host == 0 {
            return Some("main header");
        }
        if within(self.l1.offset(), self.l1.len() * 8) {
            return Some("active L1 table");
        }
        let names_host = |table: &crate::cache::table::Table| {
            let mut found = false;
            let done = table.for_each(&*self.file, |_, entry| {
                found |= entry & OFFSET_MASK == host;
                Ok(())
            });
            done.is_ok() && found
        };
        if names_host(&self.l1) {
            return Some("active L2 table");
        }
        let table = &state.refcounts.table;
        if within(table.offset(), table.len() * 8) {
            return Some("refcount table");
        }
        if names_host(table) {
            return Some("refcount block");
        }
        let (list, bytes) = snapshot::read_table(&*self.file, header).ok()?;
        if within(header.snapshots_offset, bytes) {
            return Some("snapshot table");
        }
        for entry in list
            .iter()
            .filter(|entry| entry.check_table(&self.geometry).is_ok())
        {
            let entries = u64::from(entry.l1_size);
            if within(entry.l1_offset, entries * 8) {
                return Some("inactive L1 table");
            }
            let mut found = false;
            for_each_word(&*self.file, entry.l1_offset, entries, |_, word| {
                found |= word & OFFSET_MASK == host;
                Ok(())
            })
            .ok()?;
            if found {
                return Some("inactive L2 table");
            }
        }
        let ranges = bitmap::references(&*self.file, header).ok()?;
        ranges
            .first()
            .filter(|range| within(range.0, range.1))
            .map(|_| "bitmap directory")
    }
}
