//! Zero flags in the tables of snapshots, as version 2 can say them.

use std::collections::BTreeSet;

use super::format::Snapshot;
use crate::error::{Error, Result};
use crate::format::bytes::get_u64;
use crate::format::entry::{L1Entry, L2Entry, ZERO};
use crate::image::Image;
use crate::image::state::State;

impl Image {
    /// Rewrites every entry with a zero flag of tables that only snapshots use: as unallocated
    /// where nothing lies below, else as a cluster of zeroes. The dirty bit must be set: what is
    /// not counted right should this stop half-way is counted anew when the image is next opened.
    pub(crate) fn expand_inactive_zeroes(
        &self,
        state: &mut State,
        list: &[Snapshot],
    ) -> Result<()> {
        // What the active tables use has no zero flags any more.
        let mut seen: BTreeSet<u64> = self.active_l1()?.into_iter().filter_map(named).collect();
        for snapshot in list {
            let l1 = self.read_l1(snapshot)?;
            self.l2_tables(&l1, |index, table, raw| {
                if seen.insert(table) {
                    let start = (index as u64) << self.geometry.l1_shift();
                    self.expand_table(state, table, raw, start)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The same for the L2 table at `table`, for guest offsets from `start` on.
    fn expand_table(
        &self,
        state: &mut State,
        table: u64,
        raw: &mut [u8],
        start: u64,
    ) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let users = state.refcounts.get(self.disk(), table >> bits)?;
        let mut dropped = Vec::new();
        let mut changed = false;
        for (number, bytes) in raw.chunks_exact_mut(8).enumerate() {
            let entry = L2Entry {
                word: get_u64(bytes, 0),
                bitmap: 0,
            };
            if entry.compressed() || entry.word & ZERO == 0 {
                continue;
            }
            let host = entry.host(&self.geometry);
            if host.is_some_and(|host| self.geometry.in_cluster(host) != 0) {
                return Err(Error::malformed("L2 entry", table, "unaligned cluster"));
            }
            let mut word = 0;
            if !self.backing_ends_before(start + ((number as u64) << bits)) {
                word = self.zeroed_cluster(state, users)?;
            }
            bytes.copy_from_slice(&word.to_be_bytes());
            dropped.extend(host);
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        self.sync(state)?;
        self.file.write_at(raw, table)?;
        self.file.sync()?;
        self.forget_table(state, table);
        for host in dropped {
            for _ in 0..users {
                state.refcounts.decrease(self.disk(), host >> bits)?;
            }
        }
        Ok(())
    }

    /// A new cluster of zeroes with so many references.
    fn zeroed_cluster(&self, state: &mut State, references: u64) -> Result<u64> {
        let new = self.allocate_exact(state, "L2 table", 1)?;
        let zeroes = vec![0; self.geometry.cluster_size() as usize];
        self.file.write_at(&zeroes, new.offset)?;
        for _ in 1..references {
            state
                .refcounts
                .increase(self.disk(), new.offset >> self.geometry.cluster_bits)?;
        }
        Ok(new.offset)
    }
}

fn named(word: u64) -> Option<u64> {
    L1Entry(word).table()
}
