//! Comparing the references with the refcounts of the image.

use super::counts::Counts;
use super::references::for_each_word;
use super::{FindingKind, Findings};
use crate::error::Result;
use crate::format::bytes::get_u64;
use crate::format::entry::{COPIED, L1Entry, L2Entry};
use crate::image::Image;
use crate::image::state::State;
use crate::refcount::width;

/// A refcount that is not what it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wrong {
    pub(super) cluster: u64,
    pub(super) refcount: u64,
    pub(super) references: u64,
}

/// What a comparison found.
pub(super) struct Comparison {
    pub(super) refcounts: Vec<Wrong>,
    /// The list above was cut: more are wrong than are worth listing.
    pub(super) many: bool,
    /// COPIED flags disagree with refcounts.
    pub(super) flags: bool,
}

/// More wrong refcounts than this are repaired by rebuilding all of them.
const MAX_WRONG: usize = 1 << 20;

impl Image {
    pub(super) fn compare_refcounts(
        &self,
        state: &mut State,
        counts: &Counts,
        findings: &mut Findings<'_>,
    ) -> Result<Comparison> {
        let geometry = &self.geometry;
        let mut found = Comparison {
            refcounts: Vec::new(),
            many: false,
            flags: false,
        };
        let end = counts.end();
        let limit = geometry.max_refcount();
        let mut highest = None;
        let mut expected = 0;
        let mut look = |cluster: u64, refcount: u64, findings: &mut Findings<'_>| {
            let mut references = counts.get(cluster);
            found.flags |= counts.flag_is_wrong(cluster, refcount);
            if references > limit {
                findings.corrupt(format!(
                    "ERROR: overflow cluster offset={:#x}\nUse qemu-img amend to increase the \
                     refcount entry width or qemu-img convert to create a clean copy if the image \
                     cannot be opened for writing",
                    cluster << geometry.cluster_bits
                ));
                references = limit;
            }
            if refcount == references {
                return;
            }
            let wrong = Wrong {
                cluster,
                refcount,
                references,
            };
            if refcount > references {
                let text =
                    format!("Leaked cluster {cluster} refcount={refcount} reference={references}");
                findings.add(FindingKind::Leak, text);
            } else {
                findings.corrupt(format!(
                    "ERROR cluster {cluster} refcount={refcount} reference={references}"
                ));
            }
            if found.refcounts.len() < MAX_WRONG {
                found.refcounts.push(wrong);
            } else {
                found.many = true;
            }
        };
        let per_block = 1u64 << geometry.refcount_block_bits();
        let mut block = vec![0; geometry.cluster_size() as usize];
        let table = &state.refcounts.table;
        let file_len = self.file.size()?;
        for_each_word(&*self.file, table.offset(), table.len(), |index, entry| {
            if geometry.in_cluster(entry) != 0 || entry >= file_len {
                return Ok(());
            }
            let first = index << geometry.refcount_block_bits();
            for cluster in expected..first.min(end) {
                look(cluster, 0, findings);
                highest = if counts.get(cluster) > 0 {
                    Some(cluster)
                } else {
                    highest
                };
            }
            self.file.read_at(&mut block, entry)?;
            for within in 0..per_block {
                let refcount = width::get(geometry.refcount_order, &block, within as usize);
                let cluster = first + within;
                if refcount != 0 || cluster < end {
                    if refcount != 0 || counts.get(cluster) != 0 {
                        highest = Some(cluster);
                    }
                    look(cluster, refcount, findings);
                }
            }
            expected = first + per_block;
            Ok(())
        })?;
        for cluster in expected..end {
            look(cluster, 0, findings);
            highest = if counts.get(cluster) > 0 {
                Some(cluster)
            } else {
                highest
            };
        }
        findings.report.image_end_offset =
            highest.map_or(0, |cluster| (cluster + 1) << geometry.cluster_bits);
        Ok(found)
    }

    /// Tells of each COPIED flag of the active tables that disagrees with a refcount.
    pub(super) fn tell_flags(&self, state: &mut State, findings: &mut Findings<'_>) -> Result<()> {
        self.walk_flags(state, |text| {
            findings.corrupt(format!("ERROR {text}"));
            false
        })
    }

    /// Calls `wrong` with a text about each active entry whose COPIED flag is wrong; sets it right
    /// where that returns true.
    pub(crate) fn walk_flags(
        &self,
        state: &mut State,
        mut wrong: impl FnMut(String) -> bool,
    ) -> Result<()> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        let width = geometry.l2_entry_size() as usize;
        let mut raw = vec![0; geometry.cluster_size() as usize];
        for index in 0..self.l1.len() {
            let word = self.l1.get(&*self.file, index)?;
            let Some(table) = L1Entry(word).table() else {
                continue;
            };
            if geometry.in_cluster(table) != 0 {
                continue;
            }
            let refcount = state.refcounts.get(self.disk(), table >> bits)?;
            let text = || {
                format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={word:x} refcount={refcount}"
                )
            };
            if (refcount == 1) != (word & COPIED != 0) && wrong(text()) {
                self.set_l1(state, index, word ^ COPIED)?;
            }
            self.file.read_at(&mut raw, table)?;
            let mut changed = false;
            for bytes in raw.chunks_exact_mut(width) {
                let entry = L2Entry {
                    word: get_u64(bytes, 0),
                    bitmap: 0,
                };
                let Some(host) = entry.host(&geometry) else {
                    continue;
                };
                if geometry.in_cluster(host) != 0 || geometry.data_file {
                    continue;
                }
                let refcount = state.refcounts.get(self.disk(), host >> bits)?;
                let text = || {
                    let word = entry.word;
                    format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={refcount}")
                };
                if (refcount == 1) != entry.copied() && wrong(text()) {
                    bytes[..8].copy_from_slice(&(entry.word ^ COPIED).to_be_bytes());
                    changed = true;
                }
            }
            if changed {
                self.file.write_at(&raw, table)?;
                // Only now: whoever reads it meanwhile caches it as it was.
                self.forget_table(state, table);
            }
        }
        Ok(())
    }
}
