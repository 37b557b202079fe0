//! Counting the references to each host cluster.

use super::Findings;
use super::counts::{Claim, Counts};
use crate::error::{Error, Result};
use crate::format::Header;
use crate::format::bytes::{get_u64, words};
use crate::format::entry::{COPIED, CompressedRange, L1Entry, L2Entry};
use crate::image::Image;
use crate::snapshot::{Salvage, Snapshot};
use crate::storage::Storage;

/// Bytes of a table read at once.
const STEP: u64 = 1 << 20;

/// Calls `each` with the index and value of every entry of a u64 table.
pub(crate) fn for_each_word(
    file: &dyn Storage,
    offset: u64,
    entries: u64,
    mut each: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut raw = Vec::new();
    let mut index = 0;
    while index < entries {
        let count = (entries - index).min(STEP / 8);
        raw.resize((count * 8) as usize, 0);
        file.read_at(&mut raw, offset + index * 8)?;
        for word in words(&raw) {
            if word != 0 {
                each(index, word)?;
            }
            index += 1;
        }
    }
    Ok(())
}

/// What the walk needs at every step.
struct Walk<'a, 'b> {
    image: &'a Image,
    counts: Counts,
    findings: &'a mut Findings<'b>,
    file_len: u64,
    l2: Vec<u8>,
}

impl Image {
    /// Counts what the tables that `header` names refer to, as they are on the disk, and the
    /// snapshots that could be read.
    pub(super) fn count_references(
        &self,
        header: &Header,
        snapshots: &Salvage,
        findings: &mut Findings<'_>,
    ) -> Result<Counts> {
        let file_len = self.file.size()?;
        let geometry = &self.geometry;
        let mut walk = Walk {
            image: self,
            counts: Counts::new(geometry.clusters(file_len)),
            findings,
            file_len,
            l2: vec![0; geometry.cluster_size() as usize],
        };
        walk.findings.report.total_clusters = geometry.clusters(header.size);
        walk.reference(0, geometry.cluster_size(), Claim::None);
        walk.tables(header.l1_offset, u64::from(header.l1_size), true)?;
        for entry in &snapshots.list {
            if let Err(error) = entry.check_table(geometry) {
                walk.snapshot_fault(entry, &error);
                continue;
            }
            walk.tables(entry.l1_offset, u64::from(entry.l1_size), false)?;
        }
        walk.reference(header.snapshots_offset, snapshots.bytes, Claim::None);
        let table = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        walk.reference(header.refcount_table_offset, table, Claim::None);
        walk.refcount_blocks(header.refcount_table_offset, table / 8)?;
        if let Some(place) = header.crypto_header() {
            walk.reference(place.offset, place.length, Claim::None);
        }
        match crate::bitmap::references(&*self.file, header) {
            Ok(ranges) => {
                ranges
                    .into_iter()
                    .for_each(|(offset, len)| walk.reference(offset, len, Claim::None));
            }
            Err(error) => return Err(error),
        }
        Ok(walk.counts)
    }
}

impl Walk<'_, '_> {
    fn snapshot_fault(&mut self, entry: &Snapshot, error: &Error) {
        let Snapshot {
            id,
            name,
            l1_offset,
            l1_size,
            ..
        } = entry;
        let fault = match error {
            Error::TooLarge { .. } => format!("l1_size={l1_size:#x}: L1 table is too large"),
            _ => format!("l1_offset={l1_offset:#x}: L1 table is not cluster aligned"),
        };
        self.findings.corrupt(format!(
            "ERROR snapshot {id} ({name}) {fault}; snapshot table entry corrupted"
        ));
    }

    /// Counts one reference to each cluster of a range.
    fn reference(&mut self, offset: u64, length: u64, claim: Claim) {
        if length == 0 {
            return;
        }
        let bits = self.image.geometry.cluster_bits;
        let end = offset.saturating_add(length);
        if end.saturating_sub(self.file_len) >= 1 << bits {
            self.findings.corrupt(format!(
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset {offset:#x} size {length:#x}"
            ));
            return;
        }
        for cluster in offset >> bits..=(end - 1) >> bits {
            self.counts.add(cluster, claim);
        }
    }

    /// An L1 table, its L2 tables, and all that they name.
    fn tables(&mut self, offset: u64, entries: u64, active: bool) -> Result<()> {
        self.reference(offset, entries * 8, Claim::None);
        if offset.saturating_add(entries * 8) > self.file_len.saturating_add(STEP) {
            return Ok(());
        }
        let image = self.image;
        for_each_word(&*image.file, offset, entries, |_, word| {
            let entry = L1Entry(word);
            if entry.reserved() {
                self.findings.corrupt(format!(
                    "ERROR found L1 entry with reserved bits set: {word:x}"
                ));
            }
            let Some(table) = entry.table() else {
                return Ok(());
            };
            let claim = match (active, entry.copied()) {
                (false, _) => Claim::None,
                (true, true) => Claim::Copied,
                (true, false) => Claim::Shared,
            };
            if image.geometry.in_cluster(table) != 0 {
                self.findings.corrupt(format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
                return Ok(());
            }
            self.reference(table, image.geometry.cluster_size(), claim);
            if table >= self.file_len {
                return Ok(());
            }
            let mut raw = std::mem::take(&mut self.l2);
            image.file.read_at(&mut raw, table)?;
            self.entries(&raw, active);
            self.l2 = raw;
            Ok(())
        })
    }

    fn entries(&mut self, raw: &[u8], active: bool) {
        let geometry = self.image.geometry;
        let width = geometry.l2_entry_size() as usize;
        let mut next = 0;
        for (index, bytes) in raw.chunks_exact(width).enumerate() {
            let bitmap = if geometry.extended_l2 {
                get_u64(bytes, 8)
            } else {
                0
            };
            let entry = L2Entry {
                word: get_u64(bytes, 0),
                bitmap,
            };
            if entry == L2Entry::default() {
                continue;
            }
            if entry.compressed() {
                self.compressed(index, entry, active);
                continue;
            }
            if entry.reserved(&geometry) {
                let word = entry.word;
                self.findings.corrupt(format!(
                    "ERROR found l2 entry with reserved bits set: {word:x}"
                ));
            }
            if geometry.extended_l2 && (bitmap >> 32) & bitmap & 0xffff_ffff != 0 {
                self.findings.corrupt(format!(
                    "ERROR offset={:x}: Subcluster is allocated and zero at once; L2 entry corrupted.",
                    entry.word
                ));
            }
            let Some(host) = entry.host(&geometry) else {
                continue;
            };
            if active {
                self.allocated(host, &mut next, geometry.cluster_size());
            }
            if geometry.in_cluster(host) != 0 {
                self.findings.corrupt(format!(
                    "ERROR offset={host:x}: Cluster is not properly aligned; L2 entry corrupted."
                ));
                continue;
            }
            if !geometry.data_file {
                let claim = match (active, entry.word & COPIED != 0) {
                    (false, _) => Claim::None,
                    (true, true) => Claim::Copied,
                    (true, false) => Claim::Shared,
                };
                self.reference(host, geometry.cluster_size(), claim);
            }
        }
    }

    fn allocated(&mut self, host: u64, next: &mut u64, cluster_size: u64) {
        let report = &mut self.findings.report;
        report.allocated_clusters += 1;
        if *next != 0 && *next != host {
            report.fragmented_clusters += 1;
        }
        *next = host.saturating_add(cluster_size);
    }

    fn compressed(&mut self, index: usize, entry: L2Entry, active: bool) {
        if entry.copied() {
            self.findings.corrupt(format!(
                "ERROR: coffset={:x}: Compressed clusters must not have OFLAG_COPIED set",
                entry.word
            ));
        }
        if self.image.geometry.data_file {
            self.findings
                .corrupt("ERROR compressed cluster with data file".into());
            return;
        }
        if entry.bitmap != 0 {
            // What it names stays in use all the same.
            self.findings.corrupt(format!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, \
                 entry={:#x}",
                entry.word
            ));
        }
        if active {
            let report = &mut self.findings.report;
            report.allocated_clusters += 1;
            report.fragmented_clusters += 1;
            report.compressed_clusters += 1;
        }
        let CompressedRange { offset, length } = entry.compressed_range(&self.image.geometry);
        self.reference(offset, length, Claim::None);
    }

    fn refcount_blocks(&mut self, offset: u64, entries: u64) -> Result<()> {
        if offset >= self.file_len {
            self.findings.rebuild = true;
            return Ok(());
        }
        let image = self.image;
        let size = image.geometry.cluster_size();
        for_each_word(&*image.file, offset, entries, |index, entry| {
            if image.geometry.in_cluster(entry) != 0 {
                self.findings.corrupt(format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                     corrupted"
                ));
                self.findings.rebuild = true;
            } else if entry >= self.file_len {
                self.findings
                    .corrupt(format!("ERROR refcount block {index} is outside image"));
                self.findings.rebuild = true;
            } else {
                let cluster = entry >> image.geometry.cluster_bits;
                self.reference(entry, size, Claim::None);
                if self.counts.get(cluster) != 1 {
                    let count = self.counts.get(cluster);
                    self.findings
                        .corrupt(format!("ERROR refcount block {index} refcount={count}"));
                    self.findings.rebuild = true;
                }
            }
            Ok(())
        })
    }
}
