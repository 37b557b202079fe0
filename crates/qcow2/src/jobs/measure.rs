//! How large an image will be.

use crate::create::CreateOptions;
use crate::error::Result;
use crate::map::MapRun;
use crate::node::Node;

/// Bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// With the data that there is.
    pub required: u64,
    /// With every cluster of the disk allocated.
    pub fully_allocated: u64,
}

/// The size of the file that `options` would make, with `source`'s data in it if there is one.
///
/// # Errors
/// Those of [`CreateOptions::geometry`], and of mapping `source`.
pub fn measure(options: &CreateOptions, source: Option<&Node>) -> Result<Measured> {
    let geometry = options.geometry()?;
    let cluster = geometry.cluster_size();
    let size = source
        .map_or(options.size, Node::size)
        .next_multiple_of(512);
    let disk = size.next_multiple_of(cluster);
    let crypto = options.luks.as_ref().map_or(0, |luks| luks.header_length());
    let metadata = geometry.clusters(crypto) * cluster + metadata_bytes(options, disk)?;
    let preallocated = options.preallocation != crate::create::Preallocation::Off;
    let data = if preallocated {
        disk
    } else {
        data_bytes(source, size, cluster)?
    };
    let fully = if options.data_file.is_some() {
        metadata
    } else {
        metadata + disk
    };
    let required = if options.data_file.is_some() {
        metadata
    } else {
        metadata + data
    };
    Ok(Measured {
        required,
        fully_allocated: fully,
    })
}

/// Header, L1, L2, refcount blocks and table of a disk that is full.
fn metadata_bytes(options: &CreateOptions, disk: u64) -> Result<u64> {
    let geometry = options.geometry()?;
    let cluster = geometry.cluster_size();
    let l2_entries = geometry
        .clusters(disk)
        .next_multiple_of(geometry.l2_entries());
    let l2 = l2_entries * geometry.l2_entry_size();
    let l1_entries = (l2 / cluster).next_multiple_of(cluster / 8);
    let without = cluster + l1_entries * 8 + l2;
    let counted = without + if options.data_file.is_some() { 0 } else { disk };
    Ok(without + refcount_bytes(counted / cluster, cluster, geometry.refcount_order))
}

/// Bytes of the refcount blocks and table that count `clusters` and themselves.
fn refcount_bytes(clusters: u64, cluster: u64, order: u32) -> u64 {
    let per_block = (cluster * 8) >> order;
    let (mut table, mut blocks) = (0, 0);
    loop {
        let new_blocks = (clusters + table + blocks).div_ceil(per_block);
        let new_table = (new_blocks * 8).div_ceil(cluster);
        if (new_blocks, new_table) == (blocks, table) {
            return (blocks + table) * cluster;
        }
        (blocks, table) = (new_blocks, new_table);
    }
}

/// Bytes of the clusters that hold data of `source`.
fn data_bytes(source: Option<&Node>, size: u64, cluster: u64) -> Result<u64> {
    let Some(source) = source else { return Ok(0) };
    let (mut at, mut bytes, mut counted_to) = (0, 0, 0);
    while at < size {
        let mut run = source.map(at, size - at, None)?;
        leave_out_holes(source, &mut run);
        if run.data {
            let start = (at / cluster * cluster).max(counted_to);
            let end = (at + run.length).next_multiple_of(cluster);
            bytes += end - start;
            counted_to = end;
        }
        at += run.length;
    }
    Ok(bytes)
}

/// Holes of preallocated images are no data.
fn leave_out_holes(source: &Node, run: &mut MapRun) {
    let (true, Some(host)) = (run.data, run.offset) else {
        return;
    };
    let mut below = None;
    for _ in 0..run.depth {
        below = below.as_deref().unwrap_or(source).backing();
    }
    let image = below.as_deref().unwrap_or(source).as_qcow2();
    if let Some(image) = image.filter(|image| image.is_preallocated()) {
        let (hole, length) = image.is_hole(host, run.length, 1);
        (run.data, run.length) = (!hole, length);
    }
}
