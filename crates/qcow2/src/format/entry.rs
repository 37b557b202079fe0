//! Entries of L1 and L2 tables.

use super::geometry::Geometry;

/// Bits 9 to 55: a host offset.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The refcount of what the entry points to is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
/// The entry describes a compressed cluster.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (standard entries of version 3).
pub(crate) const ZERO: u64 = 1;
const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// An L1 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct L1Entry(pub(crate) u64);

impl L1Entry {
    /// Host offset of the L2 table, if there is one.
    pub(crate) fn table(self) -> Option<u64> {
        let offset = self.0 & OFFSET_MASK;
        (offset != 0).then_some(offset)
    }

    pub(crate) fn copied(self) -> bool {
        self.0 & COPIED != 0
    }

    pub(crate) fn reserved(self) -> bool {
        self.0 & L1_RESERVED != 0
    }
}

/// An L2 entry; `bitmap` is zero unless entries are extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct L2Entry {
    pub(crate) word: u64,
    /// Bits 0-31: subcluster allocated; bits 32-63: subcluster reads as zeroes.
    pub(crate) bitmap: u64,
}

/// Where compressed data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompressedRange {
    pub(crate) offset: u64,
    /// Bytes up to the end of the last sector.
    pub(crate) length: u64,
}

/// What an L2 entry says about one subcluster (or the cluster, where there are none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not in this image: the backing file's data, or zeroes.
    Unallocated,
    /// Not in this image, but a host cluster is there for the subcluster.
    UnallocatedIn(u64),
    /// Zeroes without a host cluster.
    Zero,
    /// Zeroes, and a host cluster is kept for it.
    ZeroIn(u64),
    /// Data in the host cluster at this offset.
    Data(u64),
    Compressed(CompressedRange),
    /// Allocated and zero at once, or a zero flag where it must not be.
    Invalid,
}

impl L2Entry {
    pub(crate) fn compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    pub(crate) fn copied(self) -> bool {
        self.word & COPIED != 0
    }

    pub(crate) fn reserved(self, geometry: &Geometry) -> bool {
        !self.compressed()
            && (self.word & L2_RESERVED != 0 || geometry.extended_l2 && self.word & ZERO != 0)
    }

    /// Host offset of a cluster that is not compressed, if one is there.
    pub(crate) fn host(self, geometry: &Geometry) -> Option<u64> {
        let offset = self.word & OFFSET_MASK;
        // With an external data file, offset 0 is a cluster if COPIED is set.
        let there = offset != 0 || geometry.data_file && self.copied();
        (there && !self.compressed()).then_some(offset)
    }

    pub(crate) fn kind(self, geometry: &Geometry, subcluster: u32) -> Kind {
        if self.compressed() {
            return Kind::Compressed(self.compressed_range(geometry));
        }
        let host = self.host(geometry);
        let (allocated, zero) = if geometry.extended_l2 {
            (
                self.bitmap >> subcluster & 1 != 0,
                self.bitmap >> (32 + subcluster) & 1 != 0,
            )
        } else {
            (
                host.is_some() && self.word & ZERO == 0,
                self.word & ZERO != 0,
            )
        };
        match (host, allocated, zero) {
            (_, true, true) | (None, true, _) => Kind::Invalid,
            (Some(host), true, false) => Kind::Data(host),
            (Some(host), false, true) => Kind::ZeroIn(host),
            (Some(host), false, false) => Kind::UnallocatedIn(host),
            (None, false, true) => Kind::Zero,
            (None, false, false) => Kind::Unallocated,
        }
    }

    /// The fields of a compressed entry: offset in the low bits, sectors - 1 above them.
    pub(crate) fn compressed_range(self, geometry: &Geometry) -> CompressedRange {
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let offset = self.word & ((1 << offset_bits) - 1);
        let sectors = ((self.word & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        CompressedRange {
            offset,
            length: sectors * 512 - offset % 512,
        }
    }

    /// The entry for compressed data.
    pub(crate) fn for_compressed(geometry: &Geometry, offset: u64, length: u64) -> Self {
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let sectors = (offset + length - 1) / 512 - offset / 512;
        Self {
            word: COMPRESSED | offset | sectors << offset_bits,
            bitmap: 0,
        }
    }
}

/// The subcluster bits `from..to` of an extended entry's lower half.
pub(crate) fn subcluster_mask(from: u32, to: u32) -> u64 {
    let upto = |bit: u32| {
        if bit >= 32 {
            0xffff_ffff
        } else {
            (1u64 << bit) - 1
        }
    };
    upto(to) & !upto(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_survive_the_round_trip() {
        for cluster_bits in [9, 12, 16, 21] {
            let geometry = Geometry::new(cluster_bits, 4, false, false).unwrap();
            for (offset, length) in [(512, 1), (513, 511), (513, 512), (0x1_0001, 300)] {
                let range =
                    L2Entry::for_compressed(&geometry, offset, length).compressed_range(&geometry);
                assert_eq!(range.offset, offset);
                assert!(
                    range.length >= length && range.length < length + 512,
                    "{range:?}"
                );
            }
        }
    }

    #[test]
    fn masks_cover_their_subclusters() {
        assert_eq!(subcluster_mask(0, 32), 0xffff_ffff);
        assert_eq!(subcluster_mask(4, 6), 0b11_0000);
        assert_eq!(subcluster_mask(7, 7), 0);
    }
}
