//! Making the refcounts and flags right again.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::compare::{Comparison, Wrong};
use super::counts::Counts;
use super::{CheckReport, FindingKind, Findings, Repair};
use crate::error::{Error, Result};
use crate::format::geometry::MAX_REFCOUNT_TABLE_BYTES;
use crate::format::{Header, bytes};
use crate::image::Image;
use crate::image::state::State;
use crate::refcount::{Refcounts, width};
use crate::snapshot::{Salvage, salvage_table};

impl Image {
    /// The state of an image that may be in no state to be written yet.
    pub(super) fn lock_to_repair(&self) -> Result<MutexGuard<'_, State>> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        let state = self.lock();
        if self.broken.load(Ordering::Acquire) {
            Err(Error::Broken)
        } else {
            Ok(state)
        }
    }

    pub(super) fn repair(
        &self,
        state: &mut State,
        repair: Repair,
        counts: Counts,
        wrong: Comparison,
        snapshots: &Salvage,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        // A cluster in use that counts as free may have been given to two owners, so that no
        // single refcount can be trusted; QEMU draws the line there too.
        let uncovered = wrong.refcounts.iter().any(|wrong| wrong.refcount == 0);
        if repair == Repair::All && (findings.rebuild || uncovered || wrong.many) {
            let freed = self.refcount_clusters(state)?;
            self.rebuild(state, state.header.clone(), &counts, 0)?;
            let report = &mut findings.report;
            report.leaks_fixed += std::mem::take(&mut report.leaks);
            findings.add(
                FindingKind::Repaired,
                "Rebuilding refcount structure".into(),
            );
            for cluster in freed
                .into_iter()
                .filter(|cluster| counts.get(*cluster) == 1)
            {
                let text = format!("Repairing cluster {cluster} refcount=1 reference=0");
                findings.add(FindingKind::Repaired, text);
            }
            // Errors of the tables' own entries remain and are counted anew.
            let mut ignore = |_: &super::Finding| {};
            let mut again = Findings {
                report: CheckReport::default(),
                tell: &mut ignore,
                rebuild: false,
            };
            let before = findings.report.corruptions;
            let snapshots = salvage_table(&*self.file, &state.header)?;
            let counts = self.count_references(&state.header, &snapshots, &mut again)?;
            self.compare_refcounts(state, &counts, &mut again)?;
            findings.report.corruptions = again.report.corruptions;
            findings.report.corruptions_fixed += before.saturating_sub(again.report.corruptions);
        } else if findings.rebuild || uncovered {
            let text = "ERROR need to rebuild refcount structures";
            findings.add(FindingKind::CheckError, text.into());
            let table = state.header.refcount_table_offset;
            return Err(Error::malformed("refcount table", table, "must be rebuilt"));
        } else {
            self.correct(state, repair, &wrong.refcounts, findings)?;
        }
        if repair == Repair::All {
            self.repair_snapshots(state, snapshots, findings)?;
            self.walk_flags(state, |text| {
                findings.add(FindingKind::Repaired, format!("Repairing {text}"));
                findings.report.corruptions_fixed += 1;
                true
            })?;
        } else if wrong.flags {
            self.tell_flags(state, findings)?;
        }
        self.sync(state)
    }

    /// Says what is wrong with the snapshot table and will be repaired, or is not to be.
    pub(super) fn tell_snapshots(
        &self,
        header: &Header,
        salvage: &Salvage,
        repair: Repair,
        findings: &mut Findings<'_>,
    ) {
        for (index, _, extra) in &salvage.cut {
            let limit = crate::snapshot::MAX_EXTRA;
            let text = format!(
                "Discarding too much extra metadata in snapshot table entry {index} ({extra} > \
                 {limit})"
            );
            findings.add(FindingKind::Repaired, text);
        }
        if salvage.overhanging > 0 {
            let text = format!("Discarding {} overhanging snapshots", salvage.overhanging);
            findings.add(FindingKind::Repaired, text);
        }
        if salvage.dropped > 0 {
            let text = format!(
                "Discarding {} overhanging snapshots (snapshot table is too big)",
                salvage.dropped
            );
            findings.add(FindingKind::Repaired, text);
        }
        for index in salvage.incomplete(header) {
            let text = format!("snapshot table entry {index} is incomplete");
            match repair {
                Repair::All => findings.add(FindingKind::Repaired, format!("Repairing {text}")),
                _ => findings.corrupt(format!("ERROR {text}")),
            }
        }
    }

    /// Writes the snapshot table anew if something was wrong with it. All refcounts are right.
    fn repair_snapshots(
        &self,
        state: &mut State,
        salvage: &Salvage,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        let header = &state.header;
        let incomplete = salvage.incomplete(header).len() as u64;
        let faults = salvage.cut.len() as u64 + salvage.dropped + salvage.overhanging + incomplete;
        if faults == 0 {
            return Ok(());
        }
        let end = header.snapshots_offset.saturating_add(salvage.bytes);
        let past_end = end.saturating_sub(self.file.size()?);
        // A table that ends past the file was not counted.
        let counted = past_end < self.geometry.cluster_size();
        let old_bytes = if counted { salvage.bytes } else { 0 };
        self.replace_table(state, &salvage.list, old_bytes, |_| {})?;
        self.sync(state)?;
        findings.report.corruptions_fixed += faults;
        Ok(())
    }

    /// Sets single refcounts right.
    fn correct(
        &self,
        state: &mut State,
        repair: Repair,
        list: &[Wrong],
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        for &Wrong {
            cluster,
            refcount,
            references,
        } in list
        {
            let leak = refcount > references;
            if !leak && repair != Repair::All || findings.rebuild {
                continue;
            }
            let text =
                format!("Repairing cluster {cluster} refcount={refcount} reference={references}");
            findings.add(FindingKind::Repaired, text);
            state.refcounts.correct(self.disk(), cluster, references)?;
            let report = &mut findings.report;
            if leak {
                report.leaks -= 1;
                report.leaks_fixed += 1;
            } else {
                report.corruptions -= 1;
                report.corruptions_fixed += 1;
            }
        }
        state.refcounts.write_blocks(self.disk())?;
        self.file.sync()
    }

    /// Writes all refcounts anew with another width. The image must be opened anew then.
    pub(crate) fn rewrite_refcounts(&self, state: &mut State, order: u32) -> Result<()> {
        let counts = self.count_sound(&state.header)?;
        let mut header = state.header.clone();
        header.geometry.refcount_order = order;
        let limit = header.geometry.max_refcount();
        if let Some(cluster) = (0..counts.end()).find(|&cluster| counts.get(cluster) > limit) {
            return Err(Error::Unsupported(format!(
                "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a \
                 refcount of {}",
                1 << order,
                cluster << self.geometry.cluster_bits,
                counts.get(cluster)
            )));
        }
        self.rebuild(state, header, &counts, 0)?;
        self.abandon();
        Ok(())
    }

    /// Counts what the tables that `header` names refer to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something is wrong with them.
    pub(crate) fn count_sound(&self, header: &Header) -> Result<Counts> {
        let mut ignore = |_: &super::Finding| {};
        let mut findings = Findings {
            report: CheckReport::default(),
            tell: &mut ignore,
            rebuild: false,
        };
        let snapshots = salvage_table(&*self.file, header)?;
        // What its snapshots use would count as leaked.
        snapshots.refuse_faults(header)?;
        let counts = self.count_references(header, &snapshots, &mut findings)?;
        if findings.report.corruptions > 0 {
            return Err(Error::Corrupt);
        }
        Ok(counts)
    }

    /// Writes all refcounts anew, past everything in use and not before the cluster `start`, and
    /// makes `header`, which names them then, that of the image. What the old structures took
    /// becomes free. `counts` are the references that the tables of `header` make.
    pub(crate) fn rebuild(
        &self,
        state: &mut State,
        header: Header,
        counts: &Counts,
        start: u64,
    ) -> Result<()> {
        let geometry = header.geometry;
        let bits = geometry.cluster_bits;
        let block_bits = geometry.refcount_block_bits();
        let old = self.refcount_clusters(state)?;
        let start = counts.end().max(start);
        let (mut table, mut blocks) = (1, 1);
        loop {
            let covering = (start + table + blocks).div_ceil(1 << block_bits);
            let needed = (covering, geometry.clusters(covering * 8));
            if needed == (blocks, table) {
                break;
            }
            (blocks, table) = (needed.0.max(blocks), needed.1.max(table));
        }
        if table << bits > MAX_REFCOUNT_TABLE_BYTES {
            let (value, limit) = (table << bits, MAX_REFCOUNT_TABLE_BYTES);
            return Err(Error::TooLarge {
                what: "refcount table",
                value,
                limit,
            });
        }
        let end = start + table + blocks;
        let count = |cluster: u64| match cluster {
            cluster if cluster >= start => u64::from(cluster < end),
            cluster => counts
                .get(cluster)
                .saturating_sub(u64::from(old.binary_search(&cluster).is_ok())),
        };
        // Should this fail, what is written here does not read as zeroes.
        let file_end = &mut state.refcounts.file_end;
        *file_end = (*file_end).max(end << bits);
        let mut block = vec![0; geometry.cluster_size() as usize];
        let limit = geometry.max_refcount();
        for number in 0..blocks {
            for within in 0..1u64 << block_bits {
                let value = count((number << block_bits) + within);
                if value > limit {
                    return Err(Error::TooLarge {
                        what: "refcount",
                        value,
                        limit,
                    });
                }
                width::set(geometry.refcount_order, &mut block, within as usize, value);
            }
            self.file
                .write_at(&block, (start + table + number) << bits)?;
        }
        let mut raw = bytes::from_words((0..blocks).map(|number| (start + table + number) << bits));
        raw.resize((table << bits) as usize, 0);
        self.file.write_at(&raw, start << bits)?;
        self.file.sync()?;
        let file_end = self.file.size()?.max(end << bits);
        // From here on the image is either the old one or the new one, and which is not known
        // before the header is durable.
        state.header = header;
        state.header.refcount_table_offset = start << bits;
        state.header.refcount_table_clusters = table as u32;
        self.or_break(self.write_header(state).and_then(|()| self.file.sync()))?;
        state.refcounts = Refcounts::new(&state.header, file_end);
        // The next write looks at all metadata anew.
        state.prepared = false;
        self.ready.store(false, Ordering::Release);
        Ok(())
    }

    /// The clusters of the present refcount structures that the walk counted, sorted.
    fn refcount_clusters(&self, state: &mut State) -> Result<Vec<u64>> {
        let bits = self.geometry.cluster_bits;
        let len = self.file.size()?;
        let header = &state.header;
        let first = header.refcount_table_offset >> bits;
        let in_file = |offset: u64| offset < len;
        let mut list: Vec<u64> =
            (first..first + u64::from(header.refcount_table_clusters)).collect();
        let end = (header.refcount_table_offset)
            .saturating_add(u64::from(header.refcount_table_clusters) << bits);
        if end.saturating_sub(len) >= 1 << bits {
            list.clear();
        }
        if in_file(header.refcount_table_offset) {
            let table = &state.refcounts.table;
            super::references::for_each_word(
                &*self.file,
                table.offset(),
                table.len(),
                |_, entry| {
                    if self.geometry.in_cluster(entry) == 0 && in_file(entry) {
                        list.push(entry >> bits);
                    }
                    Ok(())
                },
            )?;
        }
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }
}
