//! The copying: the map of the sources is walked by one thread at a time, data is read by many,
//! and written in the order of its offsets unless any order will do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use strata_qcow2::AlignedBuf;

use super::zeroes::{Scanner, is_zero};
use crate::disk::Disk;
use crate::img::reason;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, warn};

const SECTOR: u64 = 512;
/// Bytes that are copied at once: what file systems with large folios take a whole folio for, which
/// spares most of the work of writing to the page cache. No cluster is larger.
const STEP: u64 = 2 << 20;
/// Of the buffers' addresses: O_DIRECT needs it, and the kernel copies pages faster to it.
const PAGE: usize = 4096;
/// Longest range whose status is asked for at once, as QEMU limits its requests.
const MAX_STATUS: u64 = 0x7fff_fe00;

/// Images that are read one behind the other.
pub(crate) struct Sources(Vec<(u64, Disk)>);

impl Sources {
    /// Puts the images one behind the other.
    pub(crate) fn new(disks: Vec<Disk>) -> Self {
        let mut start = 0;
        let placed = disks.into_iter().map(|disk| {
            let at = start;
            start += disk.size();
            (at, disk)
        });
        Self(placed.collect())
    }

    /// Size of all together.
    pub(crate) fn size(&self) -> u64 {
        self.0.last().map_or(0, |(start, disk)| start + disk.size())
    }

    /// The first image.
    pub(crate) fn first(&self) -> Option<&Disk> {
        self.0.first().map(|(_, disk)| disk)
    }

    /// The image at `offset` and where in it that is.
    fn find(&self, offset: u64) -> Option<(&Disk, u64)> {
        let (start, disk) = self.0.iter().rev().find(|(start, _)| *start <= offset)?;
        Some((disk, offset - start))
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> strata_qcow2::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let Some((disk, within)) = self.find(at) else {
                break;
            };
            let count = (disk.size() - within).min((buf.len() - done) as u64) as usize;
            if count == 0 {
                break;
            }
            disk.read(&mut buf[done..done + count], within)?;
            done += count;
        }
        Ok(())
    }
}

/// What a range of the sources is for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    /// Left to the target's backing file.
    Backing,
}

/// What to copy, and how.
pub(crate) struct Plan<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) target: &'a Disk,
    /// The target reads as zeroes where nothing is written.
    pub(crate) zeroed: bool,
    /// The target has a backing file of this size, with the same contents as the sources'.
    pub(crate) backing: Option<Option<u64>>,
    /// Write compressed clusters.
    pub(crate) compressed: bool,
    /// Bytes of zeroes that make a hole; 0 writes everything.
    pub(crate) min_sparse: u64,
    /// Go on after read errors.
    pub(crate) salvage: bool,
    pub(crate) quiet: bool,
    /// Writes may come in any order.
    pub(crate) any_order: bool,
    pub(crate) threads: usize,
    /// Bytes per second.
    pub(crate) rate_limit: Option<u64>,
}

/// Where the walk over the sources is.
#[derive(Debug, Default)]
struct Walk {
    at: u64,
    /// The range of the last status and what it is.
    known_until: u64,
    kind: Option<Kind>,
}

/// What the threads share.
struct Shared<'a> {
    walk: Mutex<Walk>,
    written: Mutex<Written>,
    turn: Condvar,
    failed: AtomicBool,
    progress: &'a Progress,
    done: AtomicU64,
    /// Bytes that count for the progress, once somebody wants to see it.
    total: OnceLock<u64>,
    start: Instant,
}

/// How far the writing is, where it keeps to the order of offsets.
#[derive(Debug, Default)]
struct Written {
    /// Everything before this offset is written.
    until: u64,
    /// Threads that wait for their turn.
    waiting: usize,
}

impl Plan<'_> {
    /// Copies everything.
    ///
    /// # Errors
    /// A silent failure: each error has been reported where it came.
    pub(crate) fn run(&self, progress: &Progress) -> Outcome<()> {
        let shared = Shared {
            walk: Mutex::default(),
            written: Mutex::default(),
            turn: Condvar::new(),
            failed: AtomicBool::new(false),
            progress,
            done: AtomicU64::new(0),
            total: OnceLock::new(),
            start: Instant::now(),
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|| self.work(&shared));
            }
            self.work(&shared);
        });
        match shared.failed.load(Ordering::Acquire) {
            true => Err(Failure::silent(1)),
            false => Ok(()),
        }
    }

    /// Bytes that count for the progress. Errors are for the copying to meet and to tell of.
    fn total(&self) -> u64 {
        let mut walk = Walk::default();
        let mut total = 0;
        while let Ok(Some((_, length, kind))) = self.next(&mut walk) {
            if self.counts(kind) {
                total += length;
            }
        }
        total
    }

    fn counts(&self, kind: Kind) -> bool {
        kind == Kind::Data || (self.min_sparse == 0 && kind == Kind::Zero)
    }

    fn work(&self, shared: &Shared<'_>) {
        let mut buf = match AlignedBuf::new(self.step() as usize, PAGE) {
            Ok(buf) => buf,
            Err(error) => return self.fail(shared, Failure::new(error.to_string())),
        };
        while !shared.failed.load(Ordering::Acquire) {
            let next = self.next(&mut lock(&shared.walk));
            let done = match next {
                Ok(None) => return,
                Ok(Some((at, length, kind))) => self.copy(shared, &mut buf, at, length, kind),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = done {
                return self.fail(shared, failure);
            }
        }
    }

    fn fail(&self, shared: &Shared<'_>, failure: Failure) {
        failure.report();
        shared.failed.store(true, Ordering::Release);
        // Under the lock, or a thread that has just looked would wait for ever.
        let _written = lock(&shared.written);
        shared.turn.notify_all();
    }

    fn step(&self) -> u64 {
        match self.target.cluster_size() {
            Some(cluster) if self.compressed => cluster,
            _ => STEP,
        }
    }

    /// The next range: its offset, length and kind.
    fn next(&self, walk: &mut Walk) -> Outcome<Option<(u64, u64, Kind)>> {
        let size = self.sources.size();
        let at = walk.at;
        if at >= size {
            return Ok(None);
        }
        if at >= walk.known_until {
            self.look(walk, size)?;
        }
        let mut kind = walk.kind.unwrap_or(Kind::Data);
        let mut length = walk.known_until - at;
        if kind == Kind::Data || (self.min_sparse == 0 && kind == Kind::Zero) {
            // Steps end at multiples of the step, so that no cluster is written in two parts.
            let step = self.step();
            length = length.min(step - at % step);
        }
        if self.compressed {
            let cluster = self.step();
            if length < cluster {
                length = cluster.min(size - at);
                kind = Kind::Data;
                walk.known_until = walk.known_until.max(at + length);
            } else {
                length -= length % cluster;
            }
        }
        walk.at = at + length;
        Ok(Some((at, length, kind)))
    }

    /// Asks the source for the status at the walk's place.
    fn look(&self, walk: &mut Walk, size: u64) -> Outcome<()> {
        let at = walk.at;
        let mut length = (size - at).min(MAX_STATUS);
        let mut past_backing = false;
        if let Some(Some(backing)) = self.backing {
            past_backing = at >= backing;
            if !past_backing {
                length = length.min(backing - at);
            }
        }
        let (disk, within) = self
            .sources
            .find(at)
            .ok_or_else(|| Failure::new("no source at this offset"))?;
        let base = self.backing.and_then(|_| disk.node().backing());
        let status = loop {
            match disk.status(base.as_deref(), within, length) {
                Ok(status) => break status,
                Err(error) if self.salvage && length > SECTOR => {
                    let _ = error;
                    length = (length / 4).next_multiple_of(SECTOR).max(SECTOR);
                }
                Err(error) if self.salvage => {
                    self.warn(format_args!(
                        "error while reading block status at offset {within}: {}",
                        reason(&error)
                    ));
                    break crate::disk::Status {
                        length: SECTOR,
                        ..crate::disk::Status::DATA
                    };
                }
                Err(error) => {
                    return Err(Failure::new(format!(
                        "error while reading block status at offset {within}: {}",
                        reason(&error)
                    )));
                }
            }
        };
        let mut length = status.length.next_multiple_of(SECTOR).max(SECTOR);
        // A status that ends inside of a source's cluster would cut its next read.
        if let Some(cluster) = disk.cluster_size() {
            let tail = (within + length) % cluster;
            if length > tail {
                length -= tail;
            }
        }
        walk.kind = Some(match (status.zero, status.data) {
            (true, _) if past_backing && self.backing.is_some() => Kind::Backing,
            (true, _) => Kind::Zero,
            (false, true) => Kind::Data,
            (false, false) if self.backing.is_some() => Kind::Backing,
            (false, false) => Kind::Data,
        });
        walk.known_until = (at + length).min(size);
        Ok(())
    }

    fn copy(
        &self,
        shared: &Shared<'_>,
        buf: &mut [u8],
        at: u64,
        length: u64,
        kind: Kind,
    ) -> Outcome<()> {
        let mut data: Option<&mut [u8]> = None;
        if kind == Kind::Data {
            let part = &mut buf[..length as usize];
            self.read(part, at)?;
            data = Some(part);
        } else if self.counts(kind) {
            let part = &mut buf[..length as usize];
            part.fill(0);
            data = Some(part);
        }
        self.wait_for_turn(shared, at);
        if shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let written = match (data, kind) {
            (Some(data), _) => self.write(data, at),
            (None, Kind::Zero) => self.write_zeroes(at, length),
            (None, _) => Ok(()),
        };
        if let Err(error) = written {
            let why = reason(&error);
            return Err(Failure::new(format!(
                "error while writing at byte {at}: {why}"
            )));
        }
        self.end_turn(shared, at + length);
        if self.counts(kind) {
            self.account(shared, length);
        }
        Ok(())
    }

    fn read(&self, part: &mut [u8], at: u64) -> Outcome<()> {
        let Err(failed) = self.sources.read(part, at) else {
            return Ok(());
        };
        if !self.salvage {
            let why = reason(&failed);
            return Err(Failure::new(format!(
                "error while reading at byte {at}: {why}"
            )));
        }
        for (i, sector) in part.chunks_mut(SECTOR as usize).enumerate() {
            let at = at + i as u64 * SECTOR;
            if let Err(failed) = self.sources.read(sector, at) {
                self.warn(format_args!(
                    "error while reading offset {at}: {}",
                    reason(&failed)
                ));
                sector.fill(0);
            }
        }
        Ok(())
    }

    fn warn(&self, text: std::fmt::Arguments<'_>) {
        if !self.quiet {
            warn(text);
        }
    }

    /// Writes the parts of `data` that are not zeroes; with `-S 0`, all of it.
    fn write(&self, data: &[u8], at: u64) -> strata_qcow2::Result<()> {
        if self.compressed {
            if self.min_sparse > 0 && is_zero(data) {
                return self.write_zeroes(at, data.len() as u64);
            }
            return self.target.write_compressed(data, at);
        }
        if self.min_sparse == 0 {
            return self.target.write(data, at);
        }
        let min_sparse = (self.min_sparse / SECTOR) as usize;
        let alignment = 1 << min_sparse.ilog2();
        let scanner = Scanner {
            min_sparse,
            alignment,
        };
        let mut done = 0;
        while done < data.len() {
            let here = at + done as u64;
            let (length, is_data) = scanner.run(&data[done..], here / SECTOR);
            if is_data {
                self.target.write(&data[done..done + length], here)?;
            } else {
                self.write_zeroes(here, length as u64)?;
            }
            done += length;
        }
        Ok(())
    }

    fn write_zeroes(&self, at: u64, length: u64) -> strata_qcow2::Result<()> {
        if self.zeroed {
            Ok(())
        } else {
            self.target.write_zeroes(at, length, true)
        }
    }

    fn wait_for_turn(&self, shared: &Shared<'_>, at: u64) {
        if self.any_order {
            return;
        }
        let mut written = lock(&shared.written);
        while written.until != at && !shared.failed.load(Ordering::Acquire) {
            written.waiting += 1;
            written = shared
                .turn
                .wait(written)
                .unwrap_or_else(PoisonError::into_inner);
            written.waiting -= 1;
        }
    }

    fn end_turn(&self, shared: &Shared<'_>, until: u64) {
        if !self.any_order {
            let mut written = lock(&shared.written);
            written.until = until;
            // A system call that mostly nobody waits for.
            if written.waiting > 0 {
                shared.turn.notify_all();
            }
        }
    }

    /// Shows the progress and keeps to the rate limit.
    fn account(&self, shared: &Shared<'_>, length: u64) {
        let done = shared.done.fetch_add(length, Ordering::Relaxed) + length;
        if shared.progress.wanted() {
            let total = *shared.total.get_or_init(|| self.total());
            shared.progress.at(done, total);
        }
        if let Some(rate) = self.rate_limit.filter(|rate| *rate > 0) {
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(shared.start.elapsed()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
