//! Power loss.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{MemoryStorage, Storage};

/// What a power failure may tear a write into.
const SECTOR: u64 = 512;
/// What discarded bytes read as: nothing that anybody wrote.
const JUNK: u8 = 0xd5;

enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Flush,
}

/// The changes of some disks in the order in which they were made.
#[derive(Default)]
pub struct History {
    changes: Mutex<Vec<(usize, Change)>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Change)>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes so far: the moment now.
    pub fn now(&self) -> usize {
        self.lock().len()
    }

    /// Whether a disk was flushed by the change after this moment.
    pub fn flushes_at(&self, moment: usize) -> bool {
        matches!(self.lock().get(moment), Some((_, Change::Flush)))
    }
}

/// A disk with a volatile cache. What it may hold after power was lost at some moment is all
/// that was flushed before, and any part of the rest, in sectors of 512 bytes.
pub struct PowerDisk {
    id: usize,
    history: Arc<History>,
    start: Vec<u8>,
    now: MemoryStorage,
}

impl PowerDisk {
    /// A disk that durably holds `start`. `id` tells the disks of one history apart.
    pub fn new(history: &Arc<History>, id: usize, start: Vec<u8>) -> Self {
        Self {
            id,
            history: Arc::clone(history),
            now: MemoryStorage::new(start.clone()),
            start,
        }
    }

    /// What the disk holds if power was lost after the first `moment` changes of the history.
    /// `keep` says of each sector that was written and not flushed whether it got there; it
    /// hears the number of the change and that of the sector.
    pub fn after_power_loss(
        &self,
        moment: usize,
        keep: &mut dyn FnMut(usize, u64) -> bool,
    ) -> Vec<u8> {
        let changes = self.history.lock();
        let mine = |&(_, (id, _)): &(usize, &(usize, Change))| *id == self.id;
        let past: Vec<_> = changes[..moment]
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| mine(&(at, entry)).then_some((at, &entry.1)))
            .collect();
        let durable = past
            .iter()
            .rposition(|(_, change)| matches!(change, Change::Flush))
            .map_or(0, |at| at + 1);
        let mut disk = self.start.clone();
        for (number, (at, change)) in past.into_iter().enumerate() {
            let mut keep = |sector| number < durable || keep(at, sector);
            match change {
                Change::Write { offset, data } => put_sectors(&mut disk, *offset, data, &mut keep),
                Change::SetLen(len) if keep(0) => disk.resize(*len as usize, 0),
                _ => {}
            }
        }
        disk
    }

    fn record(&self, change: Change) {
        self.history.lock().push((self.id, change));
    }
}

fn put_sectors(disk: &mut Vec<u8>, offset: u64, data: &[u8], keep: &mut dyn FnMut(u64) -> bool) {
    let end = offset + data.len() as u64;
    let mut at = offset;
    while at < end {
        let next = (at - at % SECTOR + SECTOR).min(end);
        if keep(at / SECTOR) {
            if (disk.len() as u64) < next {
                disk.resize(next as usize, 0);
            }
            disk[at as usize..next as usize]
                .copy_from_slice(&data[(at - offset) as usize..(next - offset) as usize]);
        }
        at = next;
    }
}

impl Storage for PowerDisk {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.now.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data = bufs.iter().flat_map(|buf| buf.iter()).copied().collect();
        self.now.write_vectored_at(bufs, offset)?;
        self.record(Change::Write { offset, data });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.record(Change::Flush);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.now.set_len(len)?;
        self.record(Change::SetLen(len));
        Ok(())
    }

    /// The bytes are junk at once, and durably so whenever the disk likes.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len()?);
        let junk = vec![JUNK; end.saturating_sub(offset) as usize];
        self.write_vectored_at(&[IoSlice::new(&junk)], offset)
    }
}
