//! Checking an image, and repairing it.

mod compare;
mod counts;
mod references;
mod repair;

pub(crate) use counts::{Claim, Counts};
pub(crate) use references::for_each_word;

use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::format::{Autoclear, Incompatible};
use crate::image::Image;
use crate::image::state::State;
use crate::snapshot::salvage_table;

/// What a check may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// Clusters that are counted but not used are freed.
    Leaks,
    /// Errors too.
    All,
}

/// One thing that a check found, in the words of qemu-img.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// One line of text.
    pub text: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// Data may be wrong or may be lost.
    Corruption,
    /// Space is wasted.
    Leak,
    /// A part could not be checked.
    CheckError,
    /// A repair is reported.
    Repaired,
}

/// What a check counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Errors that remain.
    pub corruptions: u64,
    /// Leaked clusters that remain.
    pub leaks: u64,
    /// Parts that could not be checked.
    pub check_errors: u64,
    /// Errors repaired.
    pub corruptions_fixed: u64,
    /// Leaked clusters freed.
    pub leaks_fixed: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters of the disk that have data.
    pub allocated_clusters: u64,
    /// Of those, the ones that do not follow their predecessor.
    pub fragmented_clusters: u64,
    /// Of those, the compressed ones.
    pub compressed_clusters: u64,
    /// Where the last used cluster ends.
    pub image_end_offset: u64,
}

impl CheckReport {
    /// Nothing is wrong (any more).
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }
}

/// Collects findings and counts them.
pub(crate) struct Findings<'a> {
    pub(crate) report: CheckReport,
    tell: &'a mut dyn FnMut(&Finding),
    /// The refcount structures themselves are unusable.
    rebuild: bool,
}

impl Findings<'_> {
    fn add(&mut self, kind: FindingKind, text: String) {
        match kind {
            FindingKind::Corruption => self.report.corruptions += 1,
            FindingKind::Leak => self.report.leaks += 1,
            FindingKind::CheckError => self.report.check_errors += 1,
            FindingKind::Repaired => {}
        }
        (self.tell)(&Finding { kind, text });
    }

    pub(crate) fn corrupt(&mut self, text: String) {
        self.add(FindingKind::Corruption, text);
    }
}

impl Image {
    /// Checks that every cluster is counted right and every table entry is sound, and repairs
    /// what `repair` allows. `tell` hears of each finding. The image is busy meanwhile.
    ///
    /// # Errors
    /// [`crate::Error::Io`], or [`crate::Error::ReadOnly`] when repair is asked of a read-only
    /// image; [`crate::Error::Malformed`] or [`crate::Error::TooLarge`] if the snapshot table
    /// (unless all is to be repaired) or the bitmap directory can not be read, so that what
    /// belongs to them is not known, or if leaks are to be freed by refcounts that only a repair of
    /// all can set right. What else is wrong with the image is not an error but in the
    /// report.
    pub fn check(&self, repair: Repair, tell: &mut dyn FnMut(&Finding)) -> Result<CheckReport> {
        let mut state = if repair == Repair::Nothing {
            self.lock()
        } else {
            self.lock_to_repair()?
        };
        if state.written {
            state = self.wait_for_all(state);
        }
        // A repair that takes the dirty bit away leaves no refcount behind.
        let lazy = repair == Repair::All && std::mem::take(&mut state.lazy);
        let report = self.check_locked(&mut state, repair, tell);
        if lazy && state.header.incompatible.has(Incompatible::DIRTY) {
            state.lazy = true;
        } else if lazy {
            // The next write marks the image first.
            state.prepared = false;
            self.ready.store(false, Ordering::Release);
        }
        report
    }

    fn check_locked(
        &self,
        state: &mut State,
        repair: Repair,
        tell: &mut dyn FnMut(&Finding),
    ) -> Result<CheckReport> {
        // A broken handle writes no more; the disk is looked at as it is.
        if state.written && !self.broken.load(Ordering::Acquire) {
            self.sync_all(state)?;
            state.refcounts.write_blocks(self.disk())?;
            state.refcounts.write_table(self.disk())?;
        }
        let mut findings = Findings {
            report: CheckReport::default(),
            tell,
            rebuild: false,
        };
        let snapshots = salvage_table(&*self.file, &state.header)?;
        if repair != Repair::All {
            // What they use would count as leaked, and be freed.
            snapshots.refuse_faults(&state.header)?;
        }
        self.tell_snapshots(&state.header, &snapshots, repair, &mut findings);
        let counts = self.count_references(&state.header, &snapshots, &mut findings)?;
        let wrong = self.compare_refcounts(state, &counts, &mut findings)?;
        if repair == Repair::Nothing {
            if wrong.flags {
                self.tell_flags(state, &mut findings)?;
            }
            return Ok(findings.report);
        }
        self.repair(state, repair, counts, wrong, &snapshots, &mut findings)?;
        let header = &mut state.header;
        let before = (header.autoclear, header.incompatible);
        header.autoclear = Autoclear(header.autoclear.0 & Autoclear::KNOWN.0);
        if repair == Repair::All && findings.report.corruptions == 0 {
            let marks = Incompatible::CORRUPT.with(Incompatible::DIRTY);
            header.incompatible = header.incompatible.without(marks);
        }
        if before != (header.autoclear, header.incompatible) {
            self.write_header(state)?;
            self.file.sync()?;
        }
        Ok(findings.report)
    }
}
