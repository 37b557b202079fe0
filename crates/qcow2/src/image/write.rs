//! Writing guest data.

use std::io::IoSlice;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::locate::Run;
use super::state::State;
use super::{Extent, Image};
use crate::error::{Error, IoContext, Result};
use crate::format::bytes;
use crate::format::entry::{COPIED, Kind, L2Entry, subcluster_mask};

/// Buffers up to this total are gathered when scattered data needs new clusters.
const GATHER: u64 = 2 << 20;

fn gather(parts: &[IoSlice<'_>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.iter()).copied().collect()
}

/// Which guest offsets a write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    Disk,
    /// Machine state, or space that the disk is to get.
    PastEnd,
    /// Those of the disk that nothing in this image has a word on; what others have is kept.
    Vacant,
}

/// Clusters that are being written before the tables name them.
struct Pending {
    /// Guest offset of the first cluster.
    start: u64,
    clusters: u64,
    host: u64,
    /// Allocated for this write, to be freed if it fails.
    new: bool,
    /// What is not written reads as zeroes already.
    fresh: bool,
    /// How many bytes of the write go there, at most.
    most: u64,
    /// The first and the last cluster's entries before.
    first: L2Entry,
    last: L2Entry,
}

impl Image {
    /// Writes `buf` as guest data from `offset` on. It is durable after the next
    /// [`Image::flush`].
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`]: some or none of the data is
    /// written, and the image can be used on. [`Error::Overlap`] or [`Error::Broken`]: it can not.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_write(offset, buf.len() as u64)?;
        self.write_in(Area::Disk, buf, offset)
    }

    /// Copies what lies below into the image, where it still shows.
    pub(crate) fn fill_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_write(offset, buf.len() as u64)?;
        self.write_in(Area::Vacant, buf, offset)
    }

    /// Writes guest data whose range has been checked.
    pub(crate) fn write_in(&self, area: Area, buf: &[u8], offset: u64) -> Result<()> {
        let mut buf = buf;
        let mut at = offset;
        while !buf.is_empty() {
            let in_place = match area {
                Area::Disk | Area::PastEnd => self.write_in_place(buf, at)?,
                Area::Vacant => 0,
            };
            let count = match in_place {
                0 => self.write_new(area, buf, at)?,
                count => count,
            };
            buf = &buf[count as usize..];
            at += count;
        }
        Ok(())
    }

    /// Writes all of `bufs` as guest data from `offset` on.
    ///
    /// # Errors
    /// As [`Image::write_at`].
    pub fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let total: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.check_write(offset, total)?;
        if self.cipher.is_none() && total > 0 {
            let _entered = self.entered();
            if let Some((host, count)) = self.overwrite(offset, total)?
                && count == total
            {
                return self
                    .data
                    .write_vectored_at(bufs, host)
                    .context("write", host, total);
            }
        }
        if total <= GATHER && bufs.len() > 1 {
            return self.write_at(&gather(bufs), offset);
        }
        let mut at = offset;
        for buf in bufs {
            self.write_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn check_write(&self, offset: u64, length: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Broken);
        }
        self.check_range(offset, length)
    }

    /// Where guest data at `offset` may be written in place, and how many of the `length` bytes;
    /// None if they need [`Image::write_at`], which also refuses what the tables wrongly name as
    /// data. Call it between [`Image::enter`] and [`Image::leave`]. The data of encrypted images
    /// must be encrypted first.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Malformed`], [`Error::Io`].
    pub fn overwrite(&self, offset: u64, length: u64) -> Result<Option<(u64, u64)>> {
        self.check_write(offset, length)?;
        self.overwrite_unchecked(offset, length)
    }

    /// Whether there is space in the image file, or its data file, for what the guest has at
    /// `offset`, be there data in it or not.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Malformed`], [`Error::Io`].
    pub fn is_allocated(&self, offset: u64) -> Result<bool> {
        self.check_range(offset, 1)?;
        let kind = self.run(offset, 1)?.kind;
        Ok(!matches!(kind, Kind::Unallocated | Kind::Zero))
    }

    /// The same as [`Image::overwrite`], if it can be told without waiting for a lock or an L2
    /// table; else None, and [`Image::write_at`] does it. With dirty bitmaps enabled, marking takes
    /// theirs.
    ///
    /// # Errors
    /// As [`Image::overwrite`].
    pub fn overwrite_cached(&self, offset: u64, length: u64) -> Result<Option<(u64, u64)>> {
        self.check_write(offset, length)?;
        if !self.ready.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Some(run) = self.run_cached(offset, length)? else {
            return Ok(None);
        };
        Ok(self.claim(&run, offset))
    }

    /// Where the bytes of a run lie, if they may be overwritten there.
    fn in_place(&self, run: &Run, offset: u64) -> Option<u64> {
        match run.kind {
            Kind::Data(host) if run.copied => Some(host + self.geometry.in_cluster(offset)),
            _ => None,
        }
    }

    /// Whether there is metadata in a range of the image file.
    fn has_metadata(&self, host: u64, length: u64) -> bool {
        if self.geometry.data_file {
            return false;
        }
        let bits = self.geometry.cluster_bits;
        let mut clusters = host >> bits..=(host + length - 1) >> bits;
        clusters.any(|cluster| self.metadata.contains(cluster))
    }

    /// Where the bytes of a run may be overwritten, and how many; they count as written.
    fn claim(&self, run: &Run, offset: u64) -> Option<(u64, u64)> {
        let host = self.in_place(run, offset)?;
        if self.has_metadata(host, run.length) {
            // Refusing it takes the state, whose holder may be waiting for this request to leave.
            return None;
        }
        self.tracker.mark(offset, run.length);
        Some((host, run.length))
    }

    fn overwrite_unchecked(&self, offset: u64, length: u64) -> Result<Option<(u64, u64)>> {
        if !self.ready.load(Ordering::Acquire) {
            return Ok(None);
        }
        let run = self.run(offset, length)?;
        Ok(self.claim(&run, offset))
    }

    fn write_in_place(&self, buf: &[u8], at: u64) -> Result<u64> {
        let _entered = self.entered();
        let Some((host, count)) = self.overwrite_unchecked(at, buf.len() as u64)? else {
            return Ok(0);
        };
        self.write_data(&[IoSlice::new(&buf[..count as usize])], host)?;
        Ok(count)
    }

    /// Writes data to its host offset, encrypting it if need be.
    fn write_data(&self, parts: &[IoSlice<'_>], host: u64) -> Result<()> {
        let Some(cipher) = &self.cipher else {
            let total = parts.iter().map(|part| part.len() as u64).sum();
            return self
                .data
                .write_vectored_at(parts, host)
                .context("write", host, total);
        };
        let lead = (host % 512) as usize;
        let data = gather(parts);
        let end = lead + data.len();
        let mut sectors = vec![0; end.next_multiple_of(512)];
        let start = host - lead as u64;
        let whole = lead == 0 && end.is_multiple_of(512);
        let _shared = whole.then(|| {
            self.rewriting
                .read()
                .unwrap_or_else(PoisonError::into_inner)
        });
        let _alone = (!whole).then(|| {
            self.rewriting
                .write()
                .unwrap_or_else(PoisonError::into_inner)
        });
        if !whole {
            self.data.read_at(&mut sectors, start)?;
            cipher.decrypt(start / 512, &mut sectors)?;
        }
        sectors[lead..end].copy_from_slice(&data);
        cipher.encrypt(start / 512, &mut sectors)?;
        self.data.write_at(&sectors, start)
    }

    /// Writes data at the front of `buf` that needs clusters or a change of their entries.
    /// Returns how many bytes; 0 if by now they can be written in place.
    fn write_new(&self, area: Area, buf: &[u8], at: u64) -> Result<u64> {
        let start = self.geometry.cluster_start(at);
        let state = self.lock_to_write()?;
        let mut state = self.wait_for(state, start, start + self.geometry.cluster_size());
        let mut buf = buf;
        if area != Area::PastEnd {
            // The disk may have shrunk since the range was checked.
            self.check_range(at, buf.len() as u64)?;
        }
        if area == Area::Vacant {
            let run = self.run(at, buf.len() as u64)?;
            if !matches!(run.kind, Kind::Unallocated | Kind::UnallocatedIn(_)) {
                return Ok(run.length);
            }
            buf = &buf[..run.length as usize];
        }
        let Some(pending) = self.begin(&mut state, at, buf.len() as u64)? else {
            return Ok(0);
        };
        let end = pending.start + (pending.clusters << self.geometry.cluster_bits);
        state.in_flight.push((start, end));
        drop(state);

        let count = (end - at).min(buf.len() as u64).min(pending.most);
        self.tracker.mark(at, count);
        let written = self.write_pending(&pending, &buf[..count as usize], at);

        let mut state = self.lock();
        let result = match written {
            Ok(()) => self.link(&mut state, &pending, at, at + count),
            Err(error) if pending.new => self
                .free_now(&mut state, pending.host, pending.clusters)
                .and(Err(error)),
            Err(error) => Err(error),
        };
        self.land(&mut state, (start, end));
        result?;
        self.release(state)?;
        Ok(count)
    }

    /// Finds or allocates the clusters for a write. None if it can go in place.
    fn begin(&self, state: &mut State, at: u64, length: u64) -> Result<Option<Pending>> {
        let geometry = &self.geometry;
        let start = geometry.cluster_start(at);
        self.writable_table(state, at)?;
        let first = self.entry(state, start)?;
        if let (Some(host), true) = (first.host(geometry), first.copied()) {
            let sub = (geometry.in_cluster(at) / geometry.subcluster_size()) as u32;
            if let Kind::Data(_) = first.kind(geometry, sub) {
                let run = self.run(at, length)?;
                for cluster in 0..geometry.clusters(geometry.in_cluster(at) + run.length) {
                    let distance = cluster << geometry.cluster_bits;
                    self.refuse_metadata(state, host.saturating_add(distance))?;
                }
                return Ok(None);
            }
            self.refuse_metadata(state, host)?;
            return Ok(Some(Pending {
                start,
                clusters: 1,
                host,
                new: false,
                fresh: false,
                // Up to the next subcluster with data: others may be writing to that in place, and
                // wait for nobody.
                most: self.run(at, length)?.length,
                first,
                last: first,
            }));
        }
        let last_wanted = geometry.cluster_start(at + length - 1);
        let mut wanted = 1;
        let mut last = first;
        loop {
            let next = start + (wanted << geometry.cluster_bits);
            if next > last_wanted || geometry.l1_index(next) != geometry.l1_index(start) {
                break;
            }
            let busy = state.in_flight.iter().any(|&(s, e)| s <= next && next < e);
            let entry = self.entry(state, next)?;
            if busy || entry.host(geometry).is_some() && entry.copied() {
                break;
            }
            last = entry;
            wanted += 1;
        }
        if geometry.data_file {
            // Data clusters lie at their guest offset and have no refcount.
            let clusters = wanted;
            let (host, new, fresh) = (start, false, false);
            return Ok(Some(Pending {
                start,
                clusters,
                host,
                new,
                fresh,
                most: length,
                first,
                last,
            }));
        }
        let got = self.allocate(state, "data cluster", wanted)?;
        if got.clusters < wanted {
            let at = start + ((got.clusters - 1) << geometry.cluster_bits);
            last = match self.entry(state, at) {
                Ok(entry) => entry,
                Err(error) => {
                    self.free_now(state, got.offset, got.clusters)?;
                    return Err(error);
                }
            };
        }
        Ok(Some(Pending {
            start,
            clusters: got.clusters,
            host: got.offset,
            new: true,
            fresh: got.fresh,
            most: length,
            first,
            last,
        }))
    }

    /// How far a write that starts or ends inside of a cluster must be widened: to subclusters
    /// where the cluster held no data before, else to the cluster.
    fn unit(&self, before: L2Entry, new: bool) -> u64 {
        let held = before.compressed() || before.host(&self.geometry).is_some();
        if held && new {
            self.geometry.cluster_size()
        } else {
            self.geometry.subcluster_size()
        }
    }

    /// The range of guest bytes that becomes data when `from..to` is written.
    fn widened(&self, pending: &Pending, from: u64, to: u64) -> (u64, u64) {
        let low = self.unit(pending.first, pending.new);
        let high = self.unit(pending.last, pending.new);
        (from - from % low, to.next_multiple_of(high))
    }

    fn write_pending(&self, pending: &Pending, data: &[u8], at: u64) -> Result<()> {
        let end = at + data.len() as u64;
        let (low, high) = self.widened(pending, at, end);
        let head = self.around(pending, low, at)?;
        // A data file that reads as a raw image by itself ends where the disk does.
        let last = if self.raw_data {
            high.min(self.size()).max(end)
        } else {
            high
        };
        let tail = self.around(pending, end, last)?;
        let host = pending.host + (low - pending.start);
        match (&head, &tail) {
            // Zeroes at the rim of a fresh cluster are there already.
            (None, None) => self.write_data(&[IoSlice::new(data)], host + (at - low)),
            (None, Some(tail)) => {
                self.write_data(&[IoSlice::new(data), IoSlice::new(tail)], host + (at - low))
            }
            (Some(head), None) => self.write_data(&[IoSlice::new(head), IoSlice::new(data)], host),
            (Some(head), Some(tail)) => self.write_data(
                &[IoSlice::new(head), IoSlice::new(data), IoSlice::new(tail)],
                host,
            ),
        }
    }

    /// The old contents of a range beside a write; None if nothing needs to be written there.
    fn around(&self, pending: &Pending, from: u64, to: u64) -> Result<Option<Vec<u8>>> {
        if from == to {
            return Ok(None);
        }
        // Machine state lies past the end of the disk, and all of it is there.
        let past = from >= self.size().next_multiple_of(self.geometry.cluster_size());
        let inside = if past { to } else { to.min(self.size()) }.saturating_sub(from);
        let zero = self.reads_as_zero(from, inside)?;
        if zero && pending.fresh && self.cipher.is_none() {
            return Ok(None);
        }
        let mut old = vec![0; (to - from) as usize];
        if !zero {
            self.read_unchecked(&mut old[..inside as usize], from)?;
        }
        Ok(Some(old))
    }

    /// Whether a range is known to read as zeroes without reading data.
    pub(crate) fn reads_as_zero(&self, offset: u64, length: u64) -> Result<bool> {
        let _entered = self.entered();
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let (extent, count) = self.extent_unchecked(at, end - at)?;
            match extent {
                Extent::Zero { .. } => {}
                Extent::Unallocated if self.backing_ends_before(at) => {}
                _ => return Ok(false),
            }
            at += count;
        }
        Ok(true)
    }

    /// Makes the tables name the clusters of a finished write; what they can not name is freed.
    fn link(&self, state: &mut State, pending: &Pending, from: u64, to: u64) -> Result<()> {
        for number in 0..pending.clusters {
            let distance = number << self.geometry.cluster_bits;
            if let Err(error) =
                self.link_one(state, pending, distance, self.widened(pending, from, to))
            {
                if pending.new {
                    let rest = pending.clusters - number;
                    self.free_now(state, pending.host + distance, rest)?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Links the cluster at `distance` from the first; guest bytes `low..high` are data now.
    fn link_one(
        &self,
        state: &mut State,
        pending: &Pending,
        distance: u64,
        (low, high): (u64, u64),
    ) -> Result<()> {
        let geometry = &self.geometry;
        let guest = pending.start + distance;
        let old = self.entry(state, guest)?;
        let mut entry = L2Entry {
            word: (pending.host + distance) | COPIED,
            bitmap: 0,
        };
        if geometry.extended_l2 {
            let step = geometry.subcluster_size();
            let end = guest + geometry.cluster_size();
            let first = (low.max(guest) - guest) / step;
            let last = (high.min(end) - guest) / step;
            let mask = subcluster_mask(first as u32, last as u32);
            let kept = if old.compressed() { 0 } else { old.bitmap };
            entry.bitmap = kept & !(mask << 32) | mask;
        }
        self.set_entry(state, guest, entry)?;
        if pending.new {
            // This fails for metadata alone, and the handle is broken then.
            self.unlink(state, old)?;
        }
        Ok(())
    }

    /// Makes sure that the L2 table for a guest offset exists and belongs to the active tables
    /// alone.
    pub(crate) fn writable_table(&self, state: &mut State, offset: u64) -> Result<()> {
        let geometry = &self.geometry;
        let place = self.place(offset)?;
        if place.is_some_and(|place| place.l1.copied()) {
            return Ok(());
        }
        let old = place.and_then(|place| place.l1.table());
        let mut table = Vec::new();
        if let Some(old) = old {
            table = self.unshared(state, old)?;
        }
        let got = self.allocate_exact(state, "L2 table", 1)?;
        if !got.fresh {
            table.resize(geometry.cluster_size() as usize, 0);
        }
        if let Err(error) = self.file.write_at(&table, got.offset) {
            self.free_now(state, got.offset, 1)?;
            return Err(error);
        }
        if state.lazy {
            // Tables are few: their refcounts are kept right even so.
            state.refcounts.write_blocks(self.disk())?;
        }
        self.metadata.insert(got.offset >> geometry.cluster_bits)?;
        // A request that was under way may have read a table that lay here into the cache after
        // it was given up.
        self.forget_table(state, got.offset);
        self.set_l1(state, geometry.l1_index(offset), got.offset | COPIED)?;
        state.unlinked.extend(old);
        Ok(())
    }

    /// The contents of a shared L2 table for a copy of its own. Its COPIED flags are nobody's
    /// promise, so they are made anew.
    fn unshared(&self, state: &mut State, table: u64) -> Result<Vec<u8>> {
        let geometry = &self.geometry;
        let mut raw = vec![0; geometry.cluster_size() as usize];
        // Shared tables are never changed in the cache, so the disk has their contents.
        self.file.read_at(&mut raw, table)?;
        for bytes in raw.chunks_exact_mut(geometry.l2_entry_size() as usize) {
            let word = bytes::get_u64(bytes, 0);
            let entry = L2Entry {
                word: word & !COPIED,
                bitmap: 0,
            };
            let Some(host) = entry.host(geometry) else {
                continue;
            };
            let count = state
                .refcounts
                .get(self.disk(), host >> geometry.cluster_bits)?;
            let flag = if count == 1 { COPIED } else { 0 };
            bytes[..8].copy_from_slice(&(entry.word | flag).to_be_bytes());
        }
        Ok(raw)
    }
}
