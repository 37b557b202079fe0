//! The bitmaps extension, the directory and the tables.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::format::bytes::{get_u16, get_u32, get_u64};
use crate::format::entry::OFFSET_MASK;
use crate::format::extension::{self, BITMAPS};
use crate::format::{Autoclear, Header};
use crate::storage::Storage;

/// The longest directory: 64 MiB.
const MAX_DIRECTORY: u64 = 65535 * 1024;
const MAX_BITMAPS: u32 = 65535;
/// Entries of the tables of all bitmaps, 32 MiB: a small file can claim that tables overlap.
const MAX_ENTRIES: u64 = 4 << 20;
/// The longest name in bytes.
pub(crate) const MAX_NAME: usize = 1023;
/// Bytes of the largest bitmap.
pub(crate) const MAX_BYTES: u64 = 0x2000_0000;
/// Granularities, as powers of two.
pub(crate) const GRANULARITY: std::ops::RangeInclusive<u32> = 9..=31;
/// Bytes of a directory entry before its extra data.
const FIXED: usize = 24;
/// A table entry without an offset: all bits are ones.
pub(crate) const ALL_ONES: u64 = 1;

pub(crate) const IN_USE: u32 = 1;
pub(crate) const AUTO: u32 = 2;
const EXTRA_COMPATIBLE: u32 = 4;
/// The only type there is: dirty tracking.
const DIRTY_TRACKING: u8 = 1;

/// The data of the bitmaps extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) count: u32,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) table_offset: u64,
    /// Entries of the table.
    pub(crate) table_size: u32,
    pub(crate) flags: u32,
    pub(crate) granularity_bits: u32,
    pub(crate) name: String,
    pub(crate) extra: Vec<u8>,
}

impl Directory {
    pub(crate) fn of(header: &Header) -> Result<Option<Self>> {
        // Without the autoclear bit the extension may be out of date: there are no bitmaps.
        if !header.autoclear.has(Autoclear::BITMAPS) {
            return Ok(None);
        }
        let Some(data) = extension::find(&header.extensions, BITMAPS) else {
            return Ok(None);
        };
        let directory = Self {
            count: get_u32(data, 0),
            size: get_u64(data, 8),
            offset: get_u64(data, 16),
        };
        let bad = |reason: &str| Error::malformed("bitmaps extension", directory.offset, reason);
        if data.len() != 24 {
            return Err(bad("Invalid extension length"));
        }
        if directory.count == 0 || directory.count > MAX_BITMAPS {
            return Err(bad("invalid number of bitmaps"));
        }
        if directory.size == 0 || directory.size > MAX_DIRECTORY {
            return Err(bad("bitmap directory size exceeds the maximum"));
        }
        if header.geometry.in_cluster(directory.offset) != 0
            || directory.offset > i64::MAX as u64 - MAX_DIRECTORY
        {
            return Err(bad("bitmap directory offset is not aligned"));
        }
        Ok(Some(directory))
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut data = vec![0; 24];
        data[..4].copy_from_slice(&self.count.to_be_bytes());
        data[8..16].copy_from_slice(&self.size.to_be_bytes());
        data[16..].copy_from_slice(&self.offset.to_be_bytes());
        data
    }

    /// Reads and checks the entries.
    pub(crate) fn read(self, file: &dyn Storage, header: &Header) -> Result<Vec<DirectoryEntry>> {
        // Read in steps, so that a claimed size is not allocated before it is seen to be used.
        let mut raw = Vec::new();
        let mut list: Vec<DirectoryEntry> = Vec::new();
        let mut names = HashSet::new();
        let (mut at, mut entries) = (0, 0);
        for _ in 0..self.count {
            let wanted = at + FIXED + MAX_NAME + 1024 + 8;
            while raw.len() < wanted.min(self.size as usize) {
                let from = raw.len();
                raw.resize((from + (64 << 10)).min(self.size as usize), 0);
                file.read_at(&mut raw[from..], self.offset + from as u64)?;
            }
            let (entry, length) =
                DirectoryEntry::decode(&raw[at.min(raw.len())..]).map_err(|reason| {
                    Error::malformed("bitmap directory", self.offset + at as u64, reason)
                })?;
            entry.validate(header)?;
            entries += u64::from(entry.table_size);
            if entries > MAX_ENTRIES {
                return Err(Error::TooLarge {
                    what: "entries of bitmap tables",
                    value: entries,
                    limit: MAX_ENTRIES,
                });
            }
            if !names.insert(entry.name.clone()) {
                return Err(Error::Exists {
                    what: "bitmap",
                    name: entry.name,
                });
            }
            list.push(entry);
            at += length;
        }
        if at as u64 != self.size {
            let reason = "its size does not fit its entries";
            return Err(Error::malformed("bitmap directory", self.offset, reason));
        }
        Ok(list)
    }
}

impl DirectoryEntry {
    fn decode(raw: &[u8]) -> Result<(Self, usize), &'static str> {
        if raw.len() < FIXED {
            return Err("truncated");
        }
        let extra = get_u32(raw, 20) as usize;
        let name = usize::from(get_u16(raw, 18));
        let flags = get_u32(raw, 12);
        if raw[16] != DIRTY_TRACKING {
            return Err("unknown bitmap type");
        }
        if name == 0 || name > MAX_NAME {
            return Err("name too long or empty");
        }
        if extra > 1024 || extra != 0 && flags & EXTRA_COMPATIBLE == 0 {
            return Err("unsupported extra data");
        }
        let length = (FIXED + extra + name).next_multiple_of(8);
        let text = raw
            .get(FIXED + extra..FIXED + extra + name)
            .ok_or("truncated")?;
        let entry = Self {
            table_offset: get_u64(raw, 0),
            table_size: get_u32(raw, 8),
            flags,
            granularity_bits: u32::from(raw[17]),
            name: String::from_utf8_lossy(text).into_owned(),
            extra: raw[FIXED..FIXED + extra].to_vec(),
        };
        Ok((entry, length))
    }

    fn validate(&self, header: &Header) -> Result<()> {
        let geometry = &header.geometry;
        let bad = |reason: &str| Error::malformed("bitmap", self.table_offset, reason);
        if geometry.in_cluster(self.table_offset) != 0
            || self.table_offset == 0
            || self.table_offset > i64::MAX as u64 / 2
        {
            return Err(bad("invalid table offset"));
        }
        if !GRANULARITY.contains(&self.granularity_bits) {
            return Err(bad("granularity out of range"));
        }
        let bytes = u64::from(self.table_size) << geometry.cluster_bits;
        // A bitmap that is in use may have the size from before a resize.
        let needed = bytes_for(header.size, self.granularity_bits);
        let fits = bytes >= needed && bytes - needed < geometry.cluster_size();
        if self.table_size == 0 && needed > 0 || bytes > MAX_BYTES + geometry.cluster_size() {
            return Err(bad("invalid table size"));
        }
        if !fits && self.flags & IN_USE == 0 {
            return Err(bad("table size does not fit the disk"));
        }
        if self.flags & !(IN_USE | AUTO | EXTRA_COMPATIBLE) != 0 {
            return Err(bad("unknown flags"));
        }
        Ok(())
    }

    pub(crate) fn encode(&self, raw: &mut Vec<u8>) {
        raw.extend_from_slice(&self.table_offset.to_be_bytes());
        raw.extend_from_slice(&self.table_size.to_be_bytes());
        raw.extend_from_slice(&self.flags.to_be_bytes());
        raw.push(DIRTY_TRACKING);
        raw.push(self.granularity_bits as u8);
        raw.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        raw.extend_from_slice(&(self.extra.len() as u32).to_be_bytes());
        raw.extend_from_slice(&self.extra);
        raw.extend_from_slice(self.name.as_bytes());
        raw.resize(raw.len().next_multiple_of(8), 0);
    }

    /// Reads the table.
    pub(crate) fn table(&self, file: &dyn Storage, header: &Header) -> Result<Vec<u64>> {
        let mut table = Vec::new();
        crate::check::for_each_word(
            file,
            self.table_offset,
            u64::from(self.table_size),
            |index, word| {
                let offset = word & OFFSET_MASK;
                let reserved = word & !(OFFSET_MASK | ALL_ONES) != 0;
                if reserved
                    || header.geometry.in_cluster(offset) != 0
                    || offset != 0 && word & ALL_ONES != 0
                {
                    let at = self.table_offset + index * 8;
                    return Err(Error::malformed(
                        "bitmap table entry",
                        at,
                        format!("{word:#x}"),
                    ));
                }
                table.resize(index as usize, 0);
                table.push(word);
                Ok(())
            },
        )?;
        table.resize(self.table_size as usize, 0);
        Ok(table)
    }
}

/// Bytes of a bitmap over a disk.
pub(crate) fn bytes_for(size: u64, granularity_bits: u32) -> u64 {
    size.div_ceil(1 << granularity_bits).div_ceil(8)
}

/// The ranges (offset, length) of the file that the bitmaps of an image take.
pub(crate) fn references(file: &dyn Storage, header: &Header) -> Result<Vec<(u64, u64)>> {
    let Some(directory) = Directory::of(header)? else {
        return Ok(Vec::new());
    };
    let mut ranges = vec![(directory.offset, directory.size)];
    for entry in directory.read(file, header)? {
        ranges.push((entry.table_offset, u64::from(entry.table_size) * 8));
        for word in entry.table(file, header)? {
            let offset = word & OFFSET_MASK;
            if offset != 0 {
                ranges.push((offset, header.geometry.cluster_size()));
            }
        }
    }
    Ok(ranges)
}
