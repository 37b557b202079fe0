//! Features and configuration space (virtio 1.2, 5.2.3 and 5.2.4).

use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};
use crate::disk::{Disk, SECTOR};

const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
pub(crate) const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
pub(crate) const CONFIG_WCE: u64 = 1 << 11;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Offset of the field that the driver may write.
pub(crate) const WRITEBACK_AT: u64 = 32;

/// The physical block that guests are told to align to: what disks have today.
const PHYSICAL_BLOCK: u32 = 4096;

/// What the device offers for this disk.
pub(crate) fn features(disk: &Disk, queues: u16) -> u64 {
    let mut features = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE;
    if queues > 1 {
        features |= MQ;
    }
    if disk.read_only() {
        features | RO
    } else {
        features | DISCARD | WRITE_ZEROES
    }
}

/// What of configuration space does not follow from the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Bytes of the disk that the driver is told.
    pub(crate) size: u64,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
    /// Bytes of a logical block.
    pub(crate) block_size: u32,
    pub(crate) writeback: bool,
}

/// Configuration space as it is now.
pub(crate) fn space(disk: &Disk, shape: Shape) -> [u8; 60] {
    let block = shape.block_size;
    let exponent = (PHYSICAL_BLOCK.max(block) / block).trailing_zeros() as u8;
    let cluster = u32::try_from(disk.cluster_size()).unwrap_or(0);
    // What a smaller discard of a qcow2 cluster would not free.
    let discard_unit = (cluster.max(block) / SECTOR as u32).max(1);
    let mut space = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(shape.size / SECTOR).to_le_bytes());
    // A chain has the header and the status beside the data.
    put(12, &(u32::from(shape.queue_size.max(3)) - 2).to_le_bytes());
    put(20, &block.to_le_bytes());
    put(24, &[exponent]);
    put(26, &1u16.to_le_bytes());
    put(28, &(cluster / block).to_le_bytes());
    put(32, &[shape.writeback.into()]);
    put(34, &shape.queues.to_le_bytes());
    if !disk.read_only() {
        put(36, &MAX_RANGE_SECTORS.to_le_bytes());
        put(40, &(MAX_RANGES as u32).to_le_bytes());
        put(44, &discard_unit.to_le_bytes());
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &(MAX_RANGES as u32).to_le_bytes());
        put(56, &[1]);
    }
    space
}
