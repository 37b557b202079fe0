//! Sizes that follow from the header and never change while an image is open.

use crate::error::{Error, Result};

/// The largest L1 table: 32 MiB.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest LUKS header with its key slots: 64 MiB, where 2 MiB are usual.
pub(crate) const MAX_CRYPTO_BYTES: u64 = 64 << 20;
/// The largest refcount table: 8 MiB.
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The largest number of internal snapshots.
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;
/// Host offsets fit below this (bits 9-55 of an L2 entry).
pub(crate) const MAX_HOST_OFFSET: u64 = 1 << 56;

/// The shape of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Clusters have `1 << cluster_bits` bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Refcounts have `1 << refcount_order` bits: 0 to 6.
    pub refcount_order: u32,
    /// L2 entries have 16 bytes and address 32 subclusters each.
    pub extended_l2: bool,
    /// Data clusters lie in an external file, at their guest offset.
    pub data_file: bool,
}

impl Geometry {
    /// Checks the numbers of a header.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for sizes outside of the format's limits.
    pub fn new(
        cluster_bits: u32,
        refcount_order: u32,
        extended_l2: bool,
        data_file: bool,
    ) -> Result<Self> {
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::Unsupported(format!(
                "Unsupported cluster size: 2^{cluster_bits}"
            )));
        }
        if refcount_order > 6 {
            return Err(Error::Unsupported(
                "Reference count entry width too large; may not exceed 64 bits".into(),
            ));
        }
        if extended_l2 && cluster_bits < 14 {
            return Err(Error::Unsupported(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
                    .into(),
            ));
        }
        Ok(Self {
            cluster_bits,
            refcount_order,
            extended_l2,
            data_file,
        })
    }

    /// Cluster size in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of one L2 entry.
    pub fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Number of entries of one L2 table, as a power of two.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2 { 4 } else { 3 }
    }

    /// Entries of one L2 table.
    pub fn l2_entries(&self) -> u64 {
        1 << self.l2_bits()
    }

    /// Guest bytes that one L1 entry addresses, as a power of two.
    pub fn l1_shift(&self) -> u32 {
        self.cluster_bits + self.l2_bits()
    }

    /// Smallest unit of allocation in bytes: a subcluster, or else a cluster.
    pub fn subcluster_size(&self) -> u64 {
        if self.extended_l2 {
            self.cluster_size() / 32
        } else {
            self.cluster_size()
        }
    }

    /// Refcounts of one refcount block, as a power of two.
    pub fn refcount_block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// The largest refcount.
    pub fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Offset within a cluster.
    pub fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// `offset` rounded down to a cluster.
    pub fn cluster_start(&self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    /// Clusters that `bytes` take. Never overflows.
    pub fn clusters(&self, bytes: u64) -> u64 {
        (bytes >> self.cluster_bits) + u64::from(self.in_cluster(bytes) != 0)
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_entries(&self, size: u64) -> u64 {
        let mask = (1u64 << self.l1_shift()) - 1;
        (size >> self.l1_shift()) + u64::from(size & mask != 0)
    }

    /// The largest disk that the largest L1 table addresses, in bytes.
    pub fn max_size(&self) -> u64 {
        ((MAX_L1_BYTES / 8) << self.l1_shift()).min(i64::MAX as u64)
    }

    /// Index of the L1 entry for a guest offset.
    pub fn l1_index(&self, offset: u64) -> u64 {
        offset >> self.l1_shift()
    }

    /// Index within its L2 table of the entry for a guest offset.
    pub fn l2_index(&self, offset: u64) -> u64 {
        (offset >> self.cluster_bits) & (self.l2_entries() - 1)
    }
}
