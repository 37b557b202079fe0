//! The snapshot table.

use crate::error::{Error, Result};
use crate::format::bytes::{get_u16, get_u32, get_u64};
use crate::format::geometry::{MAX_L1_BYTES, MAX_SNAPSHOTS};
use crate::format::{Geometry, Header};
use crate::storage::Storage;

/// Bytes of an entry before its extra data.
const FIXED: usize = 40;
/// The extra data that this crate knows: large VM state size, disk size, icount.
const KNOWN_EXTRA: usize = 24;
/// Longer extra data is refused.
pub(crate) const MAX_EXTRA: usize = 1024;
/// The largest table: 64 MiB.
const MAX_TABLE: u64 = 64 << 20;
/// An icount that is not there.
const NO_ICOUNT: u64 = u64::MAX;

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique string, by custom a decimal number.
    pub id: String,
    /// The user's name for it.
    pub name: String,
    /// Seconds and nanoseconds since 1970 when it was taken.
    pub date: (u32, u32),
    /// Guest time in nanoseconds.
    pub vm_clock: u64,
    /// Bytes of saved machine state, stored past the end of the disk.
    pub vm_state_size: u64,
    /// Size of the disk in bytes; None in old images, where it is that of the image.
    pub disk_size: Option<u64>,
    /// Instructions executed, for recorded machines.
    pub icount: Option<u64>,
    pub(crate) l1_offset: u64,
    pub(crate) l1_size: u32,
    /// Extra data that this crate does not know.
    pub(crate) unknown_extra: Vec<u8>,
}

/// Reads the table from its start to its end, a buffer at a time.
struct Reader<'a> {
    file: &'a dyn Storage,
    at: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        // The reader may have skipped what the buffer ends with, and more.
        if end < self.at + count as u64 {
            self.buffer.resize(count.max(4096), 0);
            self.file.read_at(&mut self.buffer, self.at)?;
            self.start = self.at;
        }
        let from = (self.at - self.start) as usize;
        self.at += count as u64;
        Ok(&self.buffer[from..from + count])
    }
}

impl Snapshot {
    /// Whether its L1 table lies where one can. A snapshot whose does not can be listed but not
    /// used.
    pub(crate) fn check_table(&self, geometry: &Geometry) -> Result<()> {
        let (structure, bytes) = ("snapshot L1 table", u64::from(self.l1_size) * 8);
        if bytes > MAX_L1_BYTES {
            return Err(Error::TooLarge {
                what: structure,
                value: bytes,
                limit: MAX_L1_BYTES,
            });
        }
        let offset = self.l1_offset;
        if geometry.in_cluster(offset) != 0 || offset > i64::MAX as u64 - MAX_L1_BYTES {
            return Err(Error::malformed(structure, offset, "invalid offset"));
        }
        Ok(())
    }

    /// Reads an entry, and how much extra data it claims; what is more than allowed is left out.
    fn read(reader: &mut Reader<'_>) -> Result<(Self, u32)> {
        let fixed: Vec<u8> = reader.take(FIXED)?.to_vec();
        let claimed = get_u32(&fixed, 36);
        let extra_size = (claimed as usize).min(MAX_EXTRA);
        let l1_offset = get_u64(&fixed, 0);
        let l1_size = get_u32(&fixed, 8);
        let extra = reader.take(extra_size)?.to_vec();
        reader.at += u64::from(claimed) - extra_size as u64;
        let id = text(reader.take(usize::from(get_u16(&fixed, 12)))?);
        let name = text(reader.take(usize::from(get_u16(&fixed, 14)))?);
        reader.at = reader.at.next_multiple_of(8);
        let large = (extra_size >= 8).then(|| get_u64(&extra, 0));
        let snapshot = Self {
            id,
            name,
            date: (get_u32(&fixed, 16), get_u32(&fixed, 20)),
            vm_clock: get_u64(&fixed, 24),
            vm_state_size: large.unwrap_or(u64::from(get_u32(&fixed, 32))),
            disk_size: (extra_size >= 16).then(|| get_u64(&extra, 8)),
            icount: (extra_size >= 24)
                .then(|| get_u64(&extra, 16))
                .filter(|&n| n != NO_ICOUNT),
            l1_offset,
            l1_size,
            unknown_extra: extra.get(KNOWN_EXTRA..).unwrap_or_default().to_vec(),
        };
        Ok((snapshot, claimed))
    }

    fn encode(&self, table: &mut Vec<u8>, disk_size: u64) {
        let extra_size = KNOWN_EXTRA + self.unknown_extra.len();
        table.extend_from_slice(&self.l1_offset.to_be_bytes());
        table.extend_from_slice(&self.l1_size.to_be_bytes());
        table.extend_from_slice(&(self.id.len() as u16).to_be_bytes());
        table.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        table.extend_from_slice(&self.date.0.to_be_bytes());
        table.extend_from_slice(&self.date.1.to_be_bytes());
        table.extend_from_slice(&self.vm_clock.to_be_bytes());
        let small = u32::try_from(self.vm_state_size).unwrap_or(0);
        table.extend_from_slice(&small.to_be_bytes());
        table.extend_from_slice(&(extra_size as u32).to_be_bytes());
        table.extend_from_slice(&self.vm_state_size.to_be_bytes());
        table.extend_from_slice(&self.disk_size.unwrap_or(disk_size).to_be_bytes());
        table.extend_from_slice(&self.icount.unwrap_or(NO_ICOUNT).to_be_bytes());
        table.extend_from_slice(&self.unknown_extra);
        table.extend_from_slice(self.id.as_bytes());
        table.extend_from_slice(self.name.as_bytes());
        table.resize(table.len().next_multiple_of(8), 0);
    }
}

/// Names end at their first zero byte, if they have one, as they do for QEMU.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// What can be used of a snapshot table.
pub(crate) struct Salvage {
    pub(crate) list: Vec<Snapshot>,
    /// Bytes that the entries of `list` take on the disk.
    pub(crate) bytes: u64,
    /// Entries whose extra data is too long, as (index, file offset, bytes), and was cut.
    pub(crate) cut: Vec<(usize, u64, u32)>,
    /// Entries past the end of the largest table.
    pub(crate) dropped: u64,
    /// Entries past the largest number of them.
    pub(crate) overhanging: u64,
}

impl Salvage {
    /// Fails if not all of the table could be used.
    pub(crate) fn refuse_faults(&self, header: &Header) -> Result<()> {
        header.refuse_too_many_snapshots()?;
        if let Some((index, at, _)) = self.cut.first() {
            return Err(too_much_extra(*index, *at));
        }
        if self.dropped > 0 {
            let reason = format!("too big by {} overhanging snapshots", self.dropped);
            let at = header.snapshots_offset;
            return Err(Error::malformed("snapshot table", at, reason));
        }
        Ok(())
    }

    /// Indexes of entries that lack extra data that version 3 demands.
    pub(crate) fn incomplete(&self, header: &Header) -> Vec<usize> {
        let lacks = |index: &usize| header.version >= 3 && self.list[*index].disk_size.is_none();
        (0..self.list.len()).filter(lacks).collect()
    }
}

fn too_much_extra(index: usize, at: u64) -> Error {
    let reason = format!("too much extra metadata in snapshot table entry {index}");
    Error::malformed("snapshot table entry", at, reason)
}

/// Reads what can be used of the snapshot table.
///
/// # Errors
/// Those of reading, and for an entry that would take the rest of the table with it.
pub(crate) fn salvage_table(file: &dyn Storage, header: &Header) -> Result<Salvage> {
    let start = header.snapshots_offset;
    let mut reader = Reader {
        file,
        at: start,
        buffer: Vec::new(),
        start,
    };
    let mut salvage = Salvage {
        list: Vec::new(),
        bytes: 0,
        cut: Vec::new(),
        dropped: 0,
        overhanging: u64::from(header.snapshot_count.saturating_sub(MAX_SNAPSHOTS)),
    };
    let count = header.snapshot_count.min(MAX_SNAPSHOTS);
    for index in 0..count as usize {
        let at = reader.at;
        let (snapshot, extra) = Snapshot::read(&mut reader)?;
        if extra as usize > MAX_EXTRA {
            salvage.cut.push((index, at, extra));
        }
        if reader.at - start > MAX_TABLE {
            if extra as usize > MAX_EXTRA {
                // One field that is wrong shall not cost all snapshots from here on.
                return Err(too_much_extra(index, at));
            }
            salvage.dropped = u64::from(count) - index as u64;
            break;
        }
        salvage.bytes = reader.at - start;
        salvage.list.push(snapshot);
    }
    Ok(salvage)
}

/// Reads the snapshot table; also the bytes that it takes.
pub(crate) fn read_table(file: &dyn Storage, header: &Header) -> Result<(Vec<Snapshot>, u64)> {
    let salvage = salvage_table(file, header)?;
    salvage.refuse_faults(header)?;
    Ok((salvage.list, salvage.bytes))
}

/// The table's bytes. Sizes that old entries leave out are `disk_size`.
pub(crate) fn encode_table(list: &[Snapshot], disk_size: u64) -> Result<Vec<u8>> {
    let mut table = Vec::new();
    for snapshot in list {
        if snapshot.id.len() > usize::from(u16::MAX) || snapshot.name.len() > usize::from(u16::MAX)
        {
            return Err(Error::Invalid("the snapshot's name is too long".into()));
        }
        snapshot.encode(&mut table, disk_size);
    }
    if table.len() as u64 > MAX_TABLE {
        let value = table.len() as u64;
        return Err(Error::TooLarge {
            what: "snapshot table",
            value,
            limit: MAX_TABLE,
        });
    }
    Ok(table)
}
