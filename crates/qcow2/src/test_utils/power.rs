//! Power loss.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{MemoryStorage, Storage};

/// What a power failure may tear a write into.
const SECTOR: u64 = 512;
/// What discarded bytes read as: nothing that anybody wrote.
const JUNK: u8 = 0xd5;

enum Change {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Flush,
    /// What is not flushed by now never will be, on any disk; the length that it gave them stays.
    Lost,
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

    /// A flush failed: no later one covers what is not flushed by now.
    pub(super) fn lose(&self) {
        self.lock().push((usize::MAX, Change::Lost));
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
        let past: Vec<_> = changes[..moment]
            .iter()
            .enumerate()
            .filter(|(_, (id, change))| *id == self.id || matches!(change, Change::Lost))
            .map(|(at, (_, change))| (at, change))
            .collect();
        let mut durable = vec![false; past.len()];
        let mut from = 0;
        for (number, (_, change)) in past.iter().enumerate() {
            if let Change::Flush | Change::Lost = change {
                durable[from..number].fill(matches!(change, Change::Flush));
                from = number;
            }
        }
        let lost = |(_, change): &(usize, &Change)| matches!(change, Change::Lost);
        let lost = past.iter().rposition(lost).unwrap_or(0);
        let mut disk = self.start.clone();
        for (number, (at, change)) in past.into_iter().enumerate() {
            let mut keep = |sector| durable[number] || keep(at, sector);
            match change {
                Change::Write { offset, data } => {
                    let end = *offset as usize + data.len();
                    if number < lost && disk.len() < end {
                        disk.resize(end, 0);
                    }
                    put_sectors(&mut disk, *offset, data, &mut keep);
                }
                Change::SetLen(len) if number < lost || keep(0) => disk.resize(*len as usize, 0),
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
