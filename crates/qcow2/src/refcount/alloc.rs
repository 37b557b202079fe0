//! Finding free clusters, and growing the refcount structures.

use super::{Disk, Refcounts, Slice, width};
use crate::cache::cluster_set;
use crate::cache::table::PAGE;
use crate::error::{Error, Result};
use crate::format::geometry::MAX_REFCOUNT_TABLE_BYTES;

/// The refcount table's new place, which the header must name before the old one is freed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) offset: u64,
    pub(crate) clusters: u32,
    pub(crate) old_offset: u64,
    pub(crate) old_clusters: u64,
}

/// Clusters that one allocation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// Host offset.
    pub(crate) offset: u64,
    pub(crate) clusters: u64,
    /// Nothing was ever written there: it reads as zeroes.
    pub(crate) fresh: bool,
}

/// Sizes found by [`Refcounts::layout`], in clusters.
struct Layout {
    start: u64,
    payload: u64,
    table: u64,
    blocks: Vec<u64>,
}

/// The header's cluster is never free; offset 0 would mean that there is no cluster, too.
fn refuse_header(place: u64, what: &'static str) -> Result<()> {
    match place {
        0 => Err(Error::InvalidAllocation { what }),
        _ => Ok(()),
    }
}

impl Refcounts {
    /// Allocates 1 to `most` adjacent clusters with a refcount of one, for `what`.
    pub(crate) fn allocate(
        &mut self,
        disk: Disk<'_>,
        what: &'static str,
        most: u64,
    ) -> Result<Allocated> {
        let (start, count) = self.find(disk, 1, most)?;
        self.take(disk, what, start, count)
    }

    /// Allocates exactly `count` adjacent clusters with a refcount of one, for `what`.
    pub(crate) fn allocate_exact(
        &mut self,
        disk: Disk<'_>,
        what: &'static str,
        count: u64,
    ) -> Result<Allocated> {
        if count == 0 {
            return Ok(Allocated {
                offset: 0,
                clusters: 0,
                fresh: false,
            });
        }
        let (start, count) = self.find(disk, count, count)?;
        self.take(disk, what, start, count)
    }

    /// Whether [`Refcounts::allocate`] needs [`Refcounts::grow`] first: fewer than `clusters`
    /// more can surely be counted by the table.
    pub(crate) fn must_grow(&self, clusters: u64) -> bool {
        let covered = self.table.len() << self.geometry.refcount_block_bits();
        let used = self.hint.max(self.geometry.clusters(self.file_end));
        // Each new block takes a cluster too.
        let blocks = (clusters >> self.geometry.refcount_block_bits()) + 2;
        used.saturating_add(clusters).saturating_add(blocks) > covered
    }

    fn take(
        &mut self,
        disk: Disk<'_>,
        what: &'static str,
        start: u64,
        count: u64,
    ) -> Result<Allocated> {
        refuse_header(start, what)?;
        for cluster in start..start + count {
            if disk.metadata.contains(cluster) {
                return Err(Error::Overlap {
                    structure: "metadata whose refcount is 0",
                    offset: cluster << self.geometry.cluster_bits,
                    length: self.geometry.cluster_size(),
                });
            }
        }
        for cluster in start..start + count {
            self.set(disk, cluster, 1)?;
        }
        if start <= self.hint {
            self.hint = self.hint.max(start + count);
        }
        let offset = start << self.geometry.cluster_bits;
        let fresh = offset >= self.file_end && disk.file.grows_with_zeroes();
        self.file_end = self
            .file_end
            .max((start + count) << self.geometry.cluster_bits);
        Ok(Allocated {
            offset,
            clusters: count,
            fresh,
        })
    }

    /// The first run of at least `least` free clusters, cut at `most`.
    fn find(&mut self, disk: Disk<'_>, least: u64, most: u64) -> Result<(u64, u64)> {
        let mut start = self.hint;
        let mut count = 0;
        let mut first_free = None;
        loop {
            let cluster = start + count;
            if cluster >= cluster_set::LIMIT {
                return Err(Error::TooLarge {
                    what: "host cluster",
                    value: cluster,
                    limit: cluster_set::LIMIT - 1,
                });
            }
            if self.block(disk, cluster)?.is_none() {
                if count >= least {
                    break;
                }
                if count == 0 {
                    let last = cluster | ((1 << self.geometry.refcount_block_bits()) - 1);
                    if cluster + least <= last {
                        // The new block follows what is allocated now.
                        self.add_block(disk, cluster, (cluster + most).min(last))?;
                    } else {
                        self.add_block(disk, cluster, cluster)?;
                        start = cluster + 1;
                    }
                    continue;
                }
                // A long run goes on across blocks; the first cluster of the run holds the next.
                self.add_block(disk, cluster, start)?;
                start += 1;
                count -= 1;
            }
            if self.get(disk, cluster)? == 0 {
                first_free.get_or_insert(cluster);
                count += 1;
                if count == most {
                    break;
                }
            } else if count >= least {
                break;
            } else {
                start = cluster + 1;
                count = 0;
            }
        }
        if let Some(first) = first_free {
            self.hint = first;
        }
        Ok((start, count))
    }

    /// Adds the refcount block that covers `cluster`, and puts it into the free cluster `place`.
    fn add_block(&mut self, disk: Disk<'_>, cluster: u64, place: u64) -> Result<()> {
        let block_bits = self.geometry.refcount_block_bits();
        let index = cluster >> block_bits;
        if index >= self.table.len() {
            return Err(Error::TooLarge {
                what: "refcount table index",
                value: index,
                limit: self.table.len(),
            });
        }
        let mut block = vec![0; self.geometry.cluster_size() as usize];
        if place >> block_bits == index {
            let within = place & ((1 << block_bits) - 1);
            width::set(self.geometry.refcount_order, &mut block, within as usize, 1);
        } else {
            self.set(disk, place, 1)?;
        }
        let offset = place << self.geometry.cluster_bits;
        // Even if the block is written in part only, the cluster does not read as zeroes any more.
        self.file_end = self.file_end.max(offset + self.geometry.cluster_size());
        self.put_block(disk, index, offset, &block)
    }

    /// Writes a new block and makes the table name it.
    fn put_block(&mut self, disk: Disk<'_>, index: u64, offset: u64, block: &[u8]) -> Result<()> {
        refuse_header(offset, "refcount block")?;
        if disk.metadata.contains(offset >> self.geometry.cluster_bits) {
            return Err(Error::Overlap {
                structure: "metadata whose refcount is 0",
                offset,
                length: block.len() as u64,
            });
        }
        disk.file.write_at(block, offset)?;
        disk.metadata.insert(offset >> self.geometry.cluster_bits)?;
        for (number, bytes) in block.chunks(self.slice_size as usize).enumerate() {
            let slice = offset + number as u64 * self.slice_size;
            self.dirty.remove(&slice);
            self.flushing.remove(&slice);
            if number == 0 {
                self.slices.insert(
                    slice,
                    Slice {
                        bytes: bytes.into(),
                        used: self.clock,
                    },
                );
            } else {
                self.slices.remove(&slice);
            }
        }
        self.table.set(disk.file, index, offset)?;
        self.dirty_pages.insert(index / PAGE);
        Ok(())
    }

    /// Makes room in the table for `payload` more clusters, by moving the table to the end of
    /// the image. The caller writes blocks, flushes, writes the header, and then calls
    /// [`Refcounts::moved`].
    pub(crate) fn grow(&mut self, disk: Disk<'_>, payload: u64) -> Result<Moved> {
        let layout = self.layout(disk, payload)?;
        let table_start = layout.start + layout.payload;
        let blocks_start = table_start + layout.table;
        let end = blocks_start + layout.blocks.len() as u64;
        let block_bits = self.geometry.refcount_block_bits();
        self.table.load_all(disk.file)?;
        let old_offset = self.table.offset();
        let old_clusters = self.table.len() >> (self.geometry.cluster_bits - 3);
        let offset = table_start << self.geometry.cluster_bits;
        let entries = layout.table << (self.geometry.cluster_bits - 3);
        // The caller's payload is only counted for; its clusters stay free.
        let taken = table_start..end;
        for cluster in taken.clone() {
            if !layout.blocks.contains(&(cluster >> block_bits)) {
                self.set(disk, cluster, 1)?;
            }
        }
        self.table.relocate(disk.file, offset, entries)?;
        for (number, &index) in layout.blocks.iter().enumerate() {
            let mut block = vec![0; self.geometry.cluster_size() as usize];
            let first = index << block_bits;
            let last = first + (1 << block_bits);
            for cluster in taken.start.max(first)..taken.end.min(last) {
                let within = (cluster - first) as usize;
                width::set(self.geometry.refcount_order, &mut block, within, 1);
            }
            let place = (blocks_start + number as u64) << self.geometry.cluster_bits;
            self.put_block(disk, index, place, &block)?;
        }
        for cluster in table_start..blocks_start {
            disk.metadata.insert(cluster)?;
        }
        self.file_end = self.file_end.max(end << self.geometry.cluster_bits);
        disk.file
            .write_at(&self.table.to_bytes(disk.file)?, offset)?;
        self.dirty_pages.clear();
        Ok(Moved {
            offset,
            clusters: layout.table as u32,
            old_offset,
            old_clusters,
        })
    }

    /// Frees the table's old place after [`Refcounts::grow`].
    pub(crate) fn moved(&mut self, disk: Disk<'_>, moved: Moved) -> Result<()> {
        let first = moved.old_offset >> self.geometry.cluster_bits;
        (first..first + moved.old_clusters)
            .try_for_each(|cluster| self.decrease(disk, cluster).map(drop))
    }

    /// Where a longer table and the blocks for it and the payload go.
    fn layout(&mut self, disk: Disk<'_>, payload: u64) -> Result<Layout> {
        let block_bits = self.geometry.refcount_block_bits();
        let start = self.end(disk)?;
        let per_cluster = self.geometry.cluster_size() / 8;
        let mut layout = Layout {
            start,
            payload,
            table: 0,
            blocks: Vec::new(),
        };
        loop {
            let total = payload + layout.table + layout.blocks.len() as u64;
            let last = (start + total) >> block_bits;
            // Half as much again, so that growing stays rare.
            let table = (last + 1 + last / 2)
                .div_ceil(per_cluster)
                .max(layout.table);
            let limit = MAX_REFCOUNT_TABLE_BYTES >> self.geometry.cluster_bits;
            let table = if table > limit {
                (last + 1).div_ceil(per_cluster)
            } else {
                table
            };
            if table > limit {
                return Err(Error::TooLarge {
                    what: "refcount table clusters",
                    value: table,
                    limit,
                });
            }
            let mut blocks = Vec::new();
            for index in start >> block_bits..=last {
                if self.block(disk, index << block_bits)?.is_none() {
                    blocks.push(index);
                }
            }
            if table == layout.table && blocks.len() == layout.blocks.len() {
                return Ok(layout);
            }
            layout.table = table;
            layout.blocks = blocks;
        }
    }

    /// The cluster after the last one that is in use.
    pub(crate) fn end(&mut self, disk: Disk<'_>) -> Result<u64> {
        let block_bits = self.geometry.refcount_block_bits();
        let mut end = self.geometry.clusters(self.file_end);
        for index in end >> block_bits..self.table.len() {
            if self.table.get(disk.file, index)? == 0 {
                continue;
            }
            let first = index << block_bits;
            for cluster in end.max(first)..first + (1 << block_bits) {
                if self.get(disk, cluster)? != 0 {
                    end = cluster + 1;
                }
            }
        }
        Ok(end)
    }
}
