//! Zeroes and discards.

use super::state::State;
use super::write::Area;
use super::{Extent, Image};
use crate::error::{Error, IoContext, Result};
use crate::format::entry::{COPIED, Kind, L2Entry, ZERO, subcluster_mask};

const ALL_SUBCLUSTERS: u64 = 0xffff_ffff;
/// Every subcluster reads as zeroes.
const ALL_ZERO: u64 = ALL_SUBCLUSTERS << 32;
/// Clusters changed before the lock is given to others for a moment.
const BATCH: u64 = 4096;

/// What becomes of a cluster that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// As zero, but what was never written may stay so where nothing lies below.
    Discarded,
    /// It reads as zeroes whatever comes to lie below; its host cluster is freed.
    Zero,
    /// The same, but its host cluster is kept.
    ZeroKept,
    /// It reads as if it had never been written: what lies below shows.
    Gone,
}

/// Whether a subcluster holds no data.
fn is_vacant(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unallocated | Kind::UnallocatedIn(_) | Kind::Zero | Kind::ZeroIn(_)
    )
}

impl Image {
    /// Makes a guest range read as zeroes; `unmap` allows to free its clusters.
    ///
    /// # Errors
    /// As [`Image::write_at`].
    pub fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        let _held = self.hold_size();
        self.check_write(offset, length)?;
        self.zero_range(offset, length, unmap)
    }

    /// Zeroes a range that has been checked, of a disk that does not change its size meanwhile.
    pub(crate) fn zero_range(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        let unit = self.geometry.subcluster_size();
        let end = offset + length;
        let low = offset.next_multiple_of(unit).min(end);
        // A unit's start up to the end of the disk is as good as the whole.
        let last = if end == self.size() && low < end {
            end.next_multiple_of(unit)
        } else {
            end
        };
        let high = (last - last % unit).max(low);
        self.zero_bytes(offset, low)?;
        self.zero_units(low, high, unmap)?;
        self.zero_bytes(high.min(end), end)
    }

    /// Zeroes less than a unit. Where the unit holds no data and the rest of it reads as zeroes
    /// too, all of it gets the zero flag, if there is one; else zeroes are written.
    fn zero_bytes(&self, from: u64, to: u64) -> Result<()> {
        let unit = self.geometry.subcluster_size();
        let mut at = from;
        while at < to {
            let start = at - at % unit;
            let next = to.min(start + unit);
            let end = (start + unit).min(self.size());
            let kind = self.run(at, 1)?.kind;
            let flagged = self.lock().header.version >= 3;
            let done = match is_vacant(kind) {
                false => false,
                // What is missing reads as zeroes then.
                true if !flagged => self.backing_ends_before(start),
                true => {
                    self.zero_through(start, at - start)?
                        && self.zero_through(next, end - next.min(end))?
                        && self.zero_vacant(start, kind)?
                }
            };
            if !done {
                self.write_at(&vec![0; (next - at) as usize], at)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Gives a unit the zero flag if it still is without data, as it was seen to be: its other
    /// bytes may be written meanwhile. Returns false if it is not.
    fn zero_vacant(&self, start: u64, seen: Kind) -> Result<bool> {
        let cluster = self.geometry.cluster_start(start);
        let unit = self.geometry.subcluster_size();
        let from = start - cluster;
        let state = self.lock_to_write()?;
        let mut state = self.wait_for(state, cluster, cluster + self.geometry.cluster_size());
        let entry = self.entry(&mut state, cluster)?;
        if entry.kind(&self.geometry, (from / unit) as u32) != seen {
            return Ok(false);
        }
        if self.geometry.extended_l2 {
            self.flag_subclusters(&mut state, cluster, from, from + unit)?;
        } else {
            self.zero_raw(start, start + unit, false)?;
            self.give_up_locked(&mut state, start, start + unit, Fate::ZeroKept)?;
        }
        self.release(state)?;
        Ok(true)
    }

    /// Whether a range reads as zeroes, in this image or below, as far as the tables tell.
    fn zero_through(&self, offset: u64, length: u64) -> Result<bool> {
        let _entered = self.entered();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let (extent, mut count) = self.extent(at, end - at)?;
            match extent {
                Extent::Zero { .. } => {}
                Extent::Unallocated if self.backing_ends_before(at) => {}
                Extent::Unallocated => {
                    let Some(below) = self.backing() else {
                        return Ok(false);
                    };
                    let run = below.map(at, count.min(below.size() - at), None)?;
                    if !run.zero {
                        return Ok(false);
                    }
                    count = run.length;
                }
                _ => return Ok(false),
            }
            at += count;
        }
        Ok(true)
    }

    /// Zeroes whole subclusters.
    fn zero_units(&self, from: u64, to: u64, unmap: bool) -> Result<()> {
        let size = self.geometry.cluster_size();
        let mut at = from;
        while at < to {
            let cluster = self.geometry.cluster_start(at);
            let whole = at == cluster && to >= cluster + size;
            if whole {
                let end = to - to % size;
                self.zero_clusters(at, end, unmap)?;
                at = end;
            } else {
                let end = to.min(cluster + size);
                self.zero_subclusters(cluster, at - cluster, end - cluster)?;
                at = end;
            }
        }
        Ok(())
    }

    fn zero_clusters(&self, from: u64, to: u64, unmap: bool) -> Result<()> {
        if self.geometry.data_file && !unmap {
            return self.give_up(from, to, Fate::ZeroKept);
        }
        if self.lock().header.version >= 3 {
            return self.give_up(from, to, if unmap { Fate::Zero } else { Fate::ZeroKept });
        }
        // Version 2 has no zero flag: without a backing file a missing cluster reads as zeroes.
        if self.backing_ends_before(from) {
            return self.give_up(from, to, Fate::Gone);
        }
        let step = 1 << 20;
        let mut at = from;
        while at < to {
            let next = (at + step).min(to).min(self.size());
            if next <= at {
                break;
            }
            self.zero_bytes(at, next)?;
            at = next;
        }
        Ok(())
    }

    /// Makes whole clusters past the end of the disk read as zeroes.
    pub(crate) fn zero_past_end(&self, from: u64, to: u64) -> Result<()> {
        if self.lock().header.version >= 3 {
            return self.give_up(from, to, Fate::Zero);
        }
        let step = self.geometry.cluster_size().max(1 << 20);
        let zeroes = vec![0; step.min(to - from) as usize];
        let mut at = from;
        while at < to {
            let count = (to - at).min(step);
            self.write_in(Area::PastEnd, &zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    fn zero_subclusters(&self, cluster: u64, from: u64, to: u64) -> Result<()> {
        let state = self.lock_to_write()?;
        let mut state = self.wait_for(state, cluster, cluster + self.geometry.cluster_size());
        let entry = self.entry(&mut state, cluster)?;
        if entry.compressed() {
            drop(state);
            let end = (cluster + to).min(self.size());
            return self.write_at(&vec![0; (end - cluster - from) as usize], cluster + from);
        }
        self.flag_subclusters(&mut state, cluster, from, to)
    }

    fn flag_subclusters(&self, state: &mut State, cluster: u64, from: u64, to: u64) -> Result<()> {
        let step = self.geometry.subcluster_size();
        let mask = subcluster_mask((from / step) as u32, (to / step) as u32);
        self.writable_table(state, cluster)?;
        let entry = self.entry(state, cluster)?;
        self.tracker.mark(cluster + from, to - from);
        self.zero_raw(cluster + from, cluster + to, true)?;
        let bitmap = self.zeroed(entry.bitmap, mask);
        self.set_entry(state, cluster, L2Entry { bitmap, ..entry })
    }

    /// Gives whole clusters up; what part of the range is not a whole cluster stays. They read as
    /// zeroes afterwards (version 2: as zeroes if there is no backing file).
    ///
    /// # Errors
    /// As [`Image::write_at`]; [`Error::Unsupported`] for version 2 with a backing file, whose
    /// stale data would show.
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let _held = self.hold_size();
        self.check_write(offset, length)?;
        let size = self.geometry.cluster_size();
        let end = offset + length;
        let last = if end == self.size() {
            end.next_multiple_of(size)
        } else {
            end
        };
        let low = offset.next_multiple_of(size);
        let high = last - last % size;
        if low >= high {
            return Ok(());
        }
        if self.lock().header.version >= 3 {
            return self.give_up(low, high, Fate::Discarded);
        }
        if !self.backing_ends_before(0) {
            return Err(Error::Unsupported(
                "version 2 can not discard data above a backing file".into(),
            ));
        }
        self.give_up(low, high, Fate::Gone)
    }

    /// Makes whole clusters unallocated, so that what lies below shows.
    ///
    /// # Errors
    /// As [`Image::write_at`].
    pub(crate) fn drop_clusters(&self, from: u64, to: u64) -> Result<()> {
        self.give_up(from, to, Fate::Gone)
    }

    /// Rewrites every entry with a zero flag as version 2 can say it: as unallocated where
    /// nothing lies below, else as data.
    pub(crate) fn expand_zeroes(&self, state: &mut State) -> Result<()> {
        let size = self.geometry.cluster_size();
        let zeroes = vec![0; size as usize];
        let mut at = 0;
        while at < self.size() {
            if self.place(at)?.is_none() {
                let span = 1u64 << self.geometry.l1_shift();
                at = (at - at % span).saturating_add(span);
                continue;
            }
            let old = self.entry(state, at)?;
            if !old.compressed() && old.word & ZERO != 0 {
                self.writable_table(state, at)?;
                let old = self.entry(state, at)?;
                if self.backing_ends_before(at) {
                    self.set_entry(state, at, L2Entry::default())?;
                    self.unlink(state, old)?;
                } else {
                    let kept = old.host(&self.geometry).filter(|_| old.copied());
                    let host = match kept {
                        Some(host) => host,
                        None => self.allocate_exact(state, "data cluster", 1)?.offset,
                    };
                    self.refuse_metadata(state, host)?;
                    self.file.write_at(&zeroes, host)?;
                    self.set_entry(
                        state,
                        at,
                        L2Entry {
                            word: host | COPIED,
                            bitmap: 0,
                        },
                    )?;
                    if kept.is_none() {
                        self.unlink(state, old)?;
                    }
                }
            }
            at += size;
        }
        Ok(())
    }

    /// The same with the state held.
    pub(crate) fn drop_locked(&self, state: &mut State, from: u64, to: u64) -> Result<()> {
        if from < to {
            self.give_up_locked(state, from, to, Fate::Gone).map(drop)
        } else {
            Ok(())
        }
    }

    /// An extended entry's bitmap once the subclusters of `mask` read as zeroes.
    ///
    /// In a raw data file those that hold data stay data: the zeroes are there (see
    /// [`Image::zero_raw`]). A write in place, which waits for nobody and for which nobody may
    /// wait, can still come after them, and a zero flag would hide from the guest what the file
    /// then holds.
    fn zeroed(&self, bitmap: u64, mask: u64) -> u64 {
        let data = if self.raw_data { bitmap & mask } else { 0 };
        let zero = mask & !data;
        bitmap & !zero | zero << 32
    }

    /// Zeroes a guest range in an external data file that must read the same without the tables.
    pub(crate) fn zero_raw(&self, from: u64, to: u64, unmap: bool) -> Result<()> {
        if !self.raw_data {
            return Ok(());
        }
        let length = to.min(self.size()).saturating_sub(from);
        self.data
            .write_zeroes(from, length, unmap)
            .context("zero", from, length)
    }

    fn give_up(&self, from: u64, to: u64, fate: Fate) -> Result<()> {
        if fate != Fate::Gone {
            self.zero_raw(from, to, fate != Fate::ZeroKept)?;
        }
        let mut at = from;
        while at < to {
            let end = to.min(at.saturating_add(BATCH << self.geometry.cluster_bits));
            let state = self.lock_to_write()?;
            let mut state = self.wait_for(state, at, end);
            at = self.give_up_locked(&mut state, at, end, fate)?;
            self.release(state)?;
        }
        Ok(())
    }

    /// One batch; returns where it ended.
    fn give_up_locked(&self, state: &mut State, from: u64, to: u64, fate: Fate) -> Result<u64> {
        self.tracker.mark(from, to - from);
        let mut at = from;
        while at < to {
            let absent = self.place(at)?.is_none();
            let alone = fate == Fate::Discarded && self.backing_ends_before(0);
            if absent && (fate == Fate::Gone || alone) {
                // A missing L2 table needs no entries to read as zeroes.
                let span = 1u64 << self.geometry.l1_shift();
                at = (at - at % span).saturating_add(span);
                continue;
            }
            self.give_up_one(state, at, fate)?;
            at += self.geometry.cluster_size();
        }
        Ok(at)
    }

    fn give_up_one(&self, state: &mut State, at: u64, fate: Fate) -> Result<()> {
        let old = self.entry(state, at)?;
        let extended = self.geometry.extended_l2;
        if self.raw_data && fate != Fate::Gone && old.host(&self.geometry).is_some() {
            // As in `zeroed`; without subclusters all of it is data already, or zero.
            let bitmap = if extended {
                self.zeroed(old.bitmap, ALL_SUBCLUSTERS)
            } else {
                0
            };
            if bitmap == old.bitmap {
                return Ok(());
            }
            self.writable_table(state, at)?;
            return self.set_entry(state, at, L2Entry { bitmap, ..old });
        }
        let kind = old.kind(&self.geometry, 0);
        let vacant = old.host(&self.geometry).is_none() && !old.compressed();
        let reads_zero = if extended {
            old.bitmap == ALL_ZERO
        } else {
            old.word & ZERO != 0
        };
        let keep = fate == Fate::ZeroKept
            && old.copied()
            && !matches!(kind, Kind::Compressed(_))
            && old.host(&self.geometry).is_some();
        let new = match fate {
            Fate::Gone => L2Entry::default(),
            Fate::Discarded | Fate::Zero | Fate::ZeroKept => {
                let word = if keep { old.word } else { 0 };
                match extended {
                    true => L2Entry {
                        word,
                        bitmap: ALL_ZERO,
                    },
                    false => L2Entry {
                        word: word | ZERO,
                        bitmap: 0,
                    },
                }
            }
        };
        let alone = fate == Fate::Discarded && vacant && self.backing_ends_before(0);
        if new == old || alone && (reads_zero || old == L2Entry::default()) {
            return Ok(());
        }
        self.writable_table(state, at)?;
        // Copying a shared table makes its flags anew.
        let old = self.entry(state, at)?;
        let new = if keep && !old.copied() {
            L2Entry {
                word: if extended { 0 } else { ZERO },
                ..new
            }
        } else {
            new
        };
        self.set_entry(state, at, new)?;
        if new.host(&self.geometry).is_none() {
            self.unlink(state, old)?;
        }
        Ok(())
    }
}
