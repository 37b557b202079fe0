//! Refcounts of host clusters: the table, a cache of the blocks, and allocation.

mod alloc;
pub(crate) mod width;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use crate::cache::cluster_set::ClusterSet;
use crate::cache::table::Table;
use crate::error::{Error, Result};
use crate::format::geometry::{MAX_HOST_OFFSET, MAX_REFCOUNT_TABLE_BYTES};
use crate::format::{Geometry, Header};
use crate::storage::Storage;

pub(crate) use alloc::Allocated;

/// Most slices of refcount blocks kept in memory: 4 MiB.
const MAX_SLICES: usize = 1024;
/// Bits of a refcount table entry that are no offset.
const RESERVED: u64 = 0x1ff;

/// What errors call an entry of the refcount table.
pub(crate) const REFCOUNT_TABLE_ENTRY: &str = "refcount table entry";

/// An entry of the refcount table at `table` that can not be one.
pub(crate) fn unaligned_block(table: u64, index: u64, entry: u64) -> Error {
    Error::malformed(
        REFCOUNT_TABLE_ENTRY,
        table + index * 8,
        format!("Refblock offset {entry:#x} unaligned (reftable index: {index:#x})"),
    )
}

struct Slice {
    bytes: Box<[u8]>,
    used: u64,
}

/// Host offsets are multiples of a power of two, and of the image's choosing; the cache is
/// bounded, so that collisions cost time only.
#[derive(Default)]
struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|&byte| self.write_u64(self.0 ^ u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// What every operation on refcounts needs beside them.
#[derive(Clone, Copy)]
pub(crate) struct Disk<'a> {
    pub(crate) file: &'a dyn Storage,
    pub(crate) metadata: &'a ClusterSet,
}

pub(crate) struct Refcounts {
    pub(crate) table: Table,
    geometry: Geometry,
    slice_size: u64,
    slices: HashMap<u64, Slice, BuildHasherDefault<OffsetHasher>>,
    /// Host offsets of changed slices.
    dirty: BTreeSet<u64>,
    /// Pages of the table with changed entries. They are written once the blocks are durable.
    dirty_pages: BTreeSet<u64>,
    /// What of both a flush under way has set aside.
    flushing: BTreeSet<u64>,
    flushing_pages: BTreeSet<u64>,
    clock: u64,
    /// No cluster below this one is free.
    hint: u64,
    /// Where the next compressed data goes if its cluster has room; 0 or a cluster's start if not.
    pub(crate) tail: u64,
    /// Every cluster from this offset on reads as zeroes: nothing was ever written there.
    pub(crate) file_end: u64,
}

/// The slice that holds a refcount, and the index in it.
#[derive(Clone, Copy)]
struct Spot {
    slice: u64,
    index: usize,
}

impl Refcounts {
    pub(crate) fn new(header: &Header, file_end: u64) -> Self {
        let geometry = header.geometry;
        let entries = u64::from(header.refcount_table_clusters) << (geometry.cluster_bits - 3);
        Self {
            table: Table::new(header.refcount_table_offset, entries),
            geometry,
            slice_size: geometry.cluster_size().min(4096),
            slices: HashMap::default(),
            dirty: BTreeSet::new(),
            dirty_pages: BTreeSet::new(),
            flushing: BTreeSet::new(),
            flushing_pages: BTreeSet::new(),
            clock: 0,
            hint: 0,
            tail: 0,
            file_end,
        }
    }

    /// Bytes of memory that the cache takes.
    pub(crate) fn memory(&self) -> u64 {
        self.slices.len() as u64 * self.slice_size + self.table.memory()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.dirty_pages.is_empty()
    }

    /// Host offset of the refcount block that covers `cluster`.
    fn block(&self, disk: Disk<'_>, cluster: u64) -> Result<Option<u64>> {
        let index = cluster >> self.geometry.refcount_block_bits();
        let entry = self.table.get(disk.file, index)?;
        if entry & RESERVED != 0 || self.geometry.in_cluster(entry) != 0 || entry >= MAX_HOST_OFFSET
        {
            return Err(unaligned_block(self.table.offset(), index, entry));
        }
        Ok((entry != 0).then_some(entry))
    }

    fn spot(&self, disk: Disk<'_>, cluster: u64) -> Result<Option<Spot>> {
        let Some(block) = self.block(disk, cluster)? else {
            return Ok(None);
        };
        let order = self.geometry.refcount_order;
        let index = cluster & ((1 << self.geometry.refcount_block_bits()) - 1);
        let per_slice = (self.slice_size * 8) >> order;
        Ok(Some(Spot {
            slice: block + index / per_slice * self.slice_size,
            index: (index % per_slice) as usize,
        }))
    }

    fn slice(&mut self, disk: Disk<'_>, offset: u64) -> Result<&mut Slice> {
        self.clock += 1;
        if !self.slices.contains_key(&offset) {
            self.make_room(disk)?;
            let mut bytes = vec![0; self.slice_size as usize].into_boxed_slice();
            disk.file.read_at(&mut bytes, offset)?;
            self.slices.insert(offset, Slice { bytes, used: 0 });
        }
        let clock = self.clock;
        let slice = self.slices.get_mut(&offset).ok_or(Error::Broken)?;
        slice.used = clock;
        Ok(slice)
    }

    /// Drops the older half of a full cache. Refcounts may reach the image at any time: too
    /// high is a leak at worst, and they are lowered only after the reference is durably gone.
    fn make_room(&mut self, disk: Disk<'_>) -> Result<()> {
        if self.slices.len() < MAX_SLICES {
            return Ok(());
        }
        self.write_blocks(disk)?;
        self.dirty.clear();
        let mut ages: Vec<u64> = self.slices.values().map(|slice| slice.used).collect();
        let (_, &mut middle, _) = ages.select_nth_unstable(MAX_SLICES / 2);
        // A flush that fails will want to write its blocks again.
        let flushing = &self.flushing;
        self.slices
            .retain(|offset, slice| slice.used > middle || flushing.contains(offset));
        Ok(())
    }

    /// The refcount of a cluster.
    pub(crate) fn get(&mut self, disk: Disk<'_>, cluster: u64) -> Result<u64> {
        let Some(spot) = self.spot(disk, cluster)? else {
            return Ok(0);
        };
        let order = self.geometry.refcount_order;
        Ok(width::get(
            order,
            &self.slice(disk, spot.slice)?.bytes,
            spot.index,
        ))
    }

    /// Sets the refcount of a cluster whose block exists.
    fn set(&mut self, disk: Disk<'_>, cluster: u64, value: u64) -> Result<()> {
        let spot = self
            .spot(disk, cluster)?
            .ok_or_else(|| self.uncovered(cluster))?;
        let order = self.geometry.refcount_order;
        width::set(
            order,
            &mut self.slice(disk, spot.slice)?.bytes,
            spot.index,
            value,
        );
        self.dirty.insert(spot.slice);
        Ok(())
    }

    fn uncovered(&self, cluster: u64) -> Error {
        let offset = cluster << self.geometry.cluster_bits;
        Error::malformed("host cluster", offset, "no refcount block covers it")
    }

    /// The refcount of a cluster, if it is not at its largest.
    fn below_limit(&mut self, disk: Disk<'_>, cluster: u64) -> Result<u64> {
        let value = self.get(disk, cluster)?;
        let limit = self.geometry.max_refcount();
        if value >= limit {
            return Err(Error::TooLarge {
                what: "refcount",
                value: value.saturating_add(1),
                limit,
            });
        }
        Ok(value)
    }

    /// Fails if a cluster can not get one more reference.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where its refcount is at its largest or the refcount table can not
    /// reach it; [`Error::Io`] with EAGAIN where no refcount block covers it.
    pub(crate) fn check_room(&mut self, disk: Disk<'_>, cluster: u64) -> Result<()> {
        let value = self.below_limit(disk, cluster)?;
        let index = cluster >> self.geometry.refcount_block_bits();
        if index >= MAX_REFCOUNT_TABLE_BYTES / 8 {
            let limit = MAX_REFCOUNT_TABLE_BYTES / 8 - 1;
            return Err(Error::TooLarge {
                what: "refcount table index",
                value: index,
                limit,
            });
        }
        if value == 0 && self.block(disk, cluster)?.is_none() {
            return Err(Error::Io {
                action: "count a reference to",
                offset: cluster << self.geometry.cluster_bits,
                length: self.geometry.cluster_size(),
                source: io::Error::from_raw_os_error(libc::EAGAIN),
            });
        }
        Ok(())
    }

    /// Adds one reference.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where the refcount is at its largest already.
    pub(crate) fn increase(&mut self, disk: Disk<'_>, cluster: u64) -> Result<u64> {
        let value = self.below_limit(disk, cluster)?;
        if value == 0 && self.block(disk, cluster)?.is_none() {
            return Err(self.uncovered(cluster));
        }
        self.set(disk, cluster, value + 1)?;
        Ok(value + 1)
    }

    /// Takes one reference away. What nothing refers to any more leaves the set of metadata and
    /// may be allocated again.
    pub(crate) fn decrease(&mut self, disk: Disk<'_>, cluster: u64) -> Result<u64> {
        let value = self.get(disk, cluster)?;
        if value == 0 {
            let offset = cluster << self.geometry.cluster_bits;
            return Err(Error::malformed(
                "host cluster",
                offset,
                "freed, but its refcount is 0",
            ));
        }
        self.set(disk, cluster, value - 1)?;
        if value == 1 {
            self.forget(disk, cluster);
        }
        Ok(value - 1)
    }

    /// Sets a refcount to what a check counted.
    pub(crate) fn correct(&mut self, disk: Disk<'_>, cluster: u64, value: u64) -> Result<()> {
        let limit = self.geometry.max_refcount();
        if value > limit {
            return Err(Error::TooLarge {
                what: "refcount",
                value,
                limit,
            });
        }
        self.set(disk, cluster, value)?;
        if value == 0 {
            self.forget(disk, cluster);
        }
        Ok(())
    }

    /// What nothing refers to any more may be allocated again.
    fn forget(&mut self, disk: Disk<'_>, cluster: u64) {
        disk.metadata.remove(cluster);
        self.hint = self.hint.min(cluster);
        if self.tail >> self.geometry.cluster_bits == cluster {
            self.tail = 0;
        }
    }

    /// Writes the changed blocks, which count as changed still.
    pub(crate) fn write_blocks(&mut self, disk: Disk<'_>) -> Result<()> {
        for offset in &self.dirty {
            if let Some(slice) = self.slices.get(offset) {
                disk.file.write_at(&slice.bytes, *offset)?;
            }
        }
        Ok(())
    }

    /// Writes the changed entries of the table, which count as changed still.
    pub(crate) fn write_table(&mut self, disk: Disk<'_>) -> Result<()> {
        for page in &self.dirty_pages {
            let (offset, bytes) = self.table.page_bytes(disk.file, *page)?;
            disk.file.write_at(&bytes, offset)?;
        }
        Ok(())
    }

    /// Writes the changed blocks. Returns the changed pages of the table, which are to be written
    /// once the blocks are durable, and their host offsets.
    pub(crate) fn begin_flush(&mut self, disk: Disk<'_>) -> Result<Vec<(u64, Vec<u8>)>> {
        let pages = self.dirty_pages.iter();
        let pages: Result<_> = pages
            .map(|page| self.table.page_bytes(disk.file, *page))
            .collect();
        let pages = pages?;
        self.write_blocks(disk)?;
        self.flushing.append(&mut self.dirty);
        self.flushing_pages.append(&mut self.dirty_pages);
        Ok(pages)
    }

    /// Says that blocks and pages of the last [`Refcounts::begin_flush`] are durable.
    pub(crate) fn end_flush(&mut self) {
        self.flushing.clear();
        self.flushing_pages.clear();
    }

    /// Says that they may not have reached the disk.
    pub(crate) fn take_back(&mut self) {
        self.dirty.append(&mut self.flushing);
        self.dirty_pages.append(&mut self.flushing_pages);
    }
}
