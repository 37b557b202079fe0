//! From guest offsets to host extents.

use super::Image;
use crate::cache::slices::{AllDirty, View};
use crate::error::{Error, Result};
use crate::format::entry::{CompressedRange, Kind, L1Entry, L2Entry};
use crate::format::{Geometry, bytes};

/// Where a run of guest bytes lies. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// In [`Image::data_storage`] from `offset` on (encrypted if the image is).
    Data {
        /// Offset of the run's first byte.
        offset: u64,
    },
    /// Zeroes. `host` is where a cluster is kept for them, if one is.
    Zero {
        /// Offset of the run's first byte in the kept cluster.
        host: Option<u64>,
    },
    /// In a compressed cluster; [`Image::read_at`] reads it.
    Compressed {
        /// Offset of the compressed data in the image file.
        offset: u64,
        /// Length of the compressed data, up to the end of its last sector.
        length: u64,
    },
    /// Not in this image: the backing file's data, or zeroes without one.
    Unallocated,
}

/// Where the L2 entry of a guest offset is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Host offset of the slice of the L2 table.
    pub(crate) slice: u64,
    /// Index of the entry within the slice.
    pub(crate) index: usize,
    pub(crate) l1: L1Entry,
}

/// A run of guest bytes of one kind, and whether each of its clusters may be written in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) copied: bool,
    pub(crate) length: u64,
}

impl Image {
    /// Where the guest bytes from `offset` on lie, and how many of the `length` bytes lie so.
    /// Call it between [`Image::enter`] and [`Image::leave`] if I/O on the extent follows.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Malformed`], [`Error::Io`].
    pub fn extent(&self, offset: u64, length: u64) -> Result<(Extent, u64)> {
        self.check_range(offset, length)?;
        self.extent_unchecked(offset, length)
    }

    /// The same, if it can be told from what is in memory, so that the answer waits for no lock and
    /// for no L2 table; else None, and [`Image::extent`] knows.
    ///
    /// # Errors
    /// As [`Image::extent`].
    pub fn extent_cached(&self, offset: u64, length: u64) -> Result<Option<(Extent, u64)>> {
        self.check_range(offset, length)?;
        let Some(run) = self.run_cached(offset, length)? else {
            return Ok(None);
        };
        Ok(Some((self.to_extent(&run, offset)?, run.length)))
    }

    /// The same, also past the end of the disk.
    pub(crate) fn extent_unchecked(&self, offset: u64, length: u64) -> Result<(Extent, u64)> {
        let run = self.run(offset, length)?;
        Ok((self.to_extent(&run, offset)?, run.length))
    }

    fn to_extent(&self, run: &Run, offset: u64) -> Result<Extent> {
        let within = self.geometry.in_cluster(offset);
        Ok(match run.kind {
            Kind::Data(host) => Extent::Data {
                offset: host + within,
            },
            Kind::Zero => Extent::Zero { host: None },
            Kind::ZeroIn(host) => Extent::Zero {
                host: Some(host + within),
            },
            Kind::Unallocated | Kind::UnallocatedIn(_) => Extent::Unallocated,
            Kind::Compressed(CompressedRange { offset, length }) => {
                Extent::Compressed { offset, length }
            }
            Kind::Invalid => {
                return Err(Error::malformed(
                    "L2 entry",
                    offset,
                    "subcluster is allocated and zero at once (guest offset)",
                ));
            }
        })
    }

    /// The place of the L2 entry for a guest offset; None without an L2 table.
    pub(crate) fn place(&self, offset: u64) -> Result<Option<Place>> {
        let geometry = &self.geometry;
        let index = geometry.l1_index(offset);
        let l1 = L1Entry(self.l1.get(&*self.file, index)?);
        let Some(table) = l1.table() else {
            return Ok(None);
        };
        if geometry.in_cluster(table) != 0 || l1.reserved() {
            return Err(Error::malformed(
                "L1 entry",
                self.l1.offset() + index * 8,
                format!("L2 table offset {:#x} unaligned", table),
            ));
        }
        let byte = geometry.l2_index(offset) * geometry.l2_entry_size();
        let slice = table + (byte & !(self.slice_size - 1));
        let index = ((byte & (self.slice_size - 1)) / geometry.l2_entry_size()) as usize;
        Ok(Some(Place { slice, index, l1 }))
    }

    /// The words of the slice at host offset `slice`, as the disk has them.
    fn read_slice(&self, slice: u64) -> Result<Vec<u64>> {
        let mut raw = vec![0; self.slice_size as usize];
        self.file.read_at(&mut raw, slice)?;
        Ok(bytes::words(&raw).collect())
    }

    /// Reads the slice at host offset `slice` into the cache, if the cache has room.
    pub(crate) fn try_load(&self, slice: u64) -> Result<Result<(), AllDirty>> {
        self.l2.fill(slice, || self.read_slice(slice))
    }

    /// Looks at the slice at host offset `slice`, reading it first if need be.
    fn with_slice<R>(&self, slice: u64, look: impl Fn(View<'_>) -> R) -> Result<R> {
        loop {
            if let Some(result) = self.l2.view(slice, &look) {
                return Ok(result);
            }
            if self.try_load(slice)?.is_err() {
                // Making room takes the lock and a flush, for which no lookup shall wait. A slice
                // that is not cached is not dirty: the disk has it as it was when this request
                // had entered already, so that whoever changes it waits for the request.
                let words = self.read_slice(slice)?;
                return Ok(self.l2.view_of(words, look));
            }
        }
    }

    /// Fails for an entry that the format does not allow.
    pub(crate) fn check_entry(&self, entry: L2Entry, place: Place) -> Result<()> {
        let host = entry.host(&self.geometry).unwrap_or(0);
        let reason = if entry.reserved(&self.geometry) {
            "reserved bits set"
        } else if self.geometry.in_cluster(host) != 0 {
            "Cluster allocation offset unaligned"
        } else {
            return Ok(());
        };
        let at = place.slice + place.index as u64 * self.geometry.l2_entry_size();
        Err(Error::malformed("L2 entry", at, reason))
    }

    /// The run of like guest bytes from `offset` on, within one slice.
    pub(crate) fn run(&self, offset: u64, length: u64) -> Result<Run> {
        let Some(place) = self.place(offset)? else {
            return Ok(self.untabled(offset, length));
        };
        let found = self.with_slice(place.slice, |view| {
            scan(&self.geometry, view, place.index, offset, length)
        })?;
        self.checked(found, place, offset)
    }

    /// The same, if its slice is in memory.
    pub(crate) fn run_cached(&self, offset: u64, length: u64) -> Result<Option<Run>> {
        let Some(place) = self.place(offset)? else {
            return Ok(Some(self.untabled(offset, length)));
        };
        let found = self.l2.view(place.slice, |view| {
            scan(&self.geometry, view, place.index, offset, length)
        });
        let run = found.map(|found| self.checked(found, place, offset));
        run.transpose()
    }

    /// The run where there is no L2 table.
    fn untabled(&self, offset: u64, length: u64) -> Run {
        let span = 1u64 << self.geometry.l1_shift();
        Run {
            kind: Kind::Unallocated,
            copied: false,
            length: (span - (offset & (span - 1))).min(length),
        }
    }

    /// Judges what was found in a slice.
    fn checked(
        &self,
        found: Result<Run, (usize, &'static str)>,
        place: Place,
        offset: u64,
    ) -> Result<Run> {
        let geometry = &self.geometry;
        let mut run = found.map_err(|(index, reason)| {
            let at = place.slice + index as u64 * geometry.l2_entry_size();
            Error::malformed("L2 entry", at, reason)
        })?;
        if let (true, Kind::Data(host)) = (geometry.data_file, run.kind)
            && host != geometry.cluster_start(offset)
        {
            return Err(Error::malformed(
                "L2 entry",
                place.slice + place.index as u64 * geometry.l2_entry_size(),
                "External data file host cluster offset does not match guest cluster offset",
            ));
        }
        run.copied &= place.l1.copied();
        Ok(run)
    }
}

/// Scans the entries of one slice, from the one at `start` on, which `offset` belongs to.
fn scan(
    geometry: &Geometry,
    view: View<'_>,
    start: usize,
    offset: u64,
    length: u64,
) -> Result<Run, (usize, &'static str)> {
    let within = geometry.in_cluster(offset);
    let step = geometry.subcluster_size();
    let steps = (geometry.cluster_size() / step) as u32;
    let mut first: Option<(Kind, bool)> = None;
    let mut covered = 0;
    let mut sub = (within / step) as u32;
    let mut lead = within % step;
    'slice: for index in start..view.len() {
        let entry = view.entry(index);
        if entry.reserved(geometry) {
            return Err((index, "reserved bits set"));
        }
        let distance = ((index - start) as u64) << geometry.cluster_bits;
        while sub < steps {
            let kind = entry.kind(geometry, sub);
            if let Kind::Data(host) | Kind::ZeroIn(host) | Kind::UnallocatedIn(host) = kind
                && geometry.in_cluster(host) != 0
            {
                return Err((index, "Cluster allocation offset unaligned"));
            }
            match first {
                None => first = Some((kind, entry.copied())),
                Some((kind_0, copied)) => {
                    if !continues(kind_0, kind, distance) || copied != entry.copied() {
                        break 'slice;
                    }
                }
            }
            covered += step - lead;
            lead = 0;
            if covered >= length {
                break 'slice;
            }
            sub += 1;
        }
        sub = 0;
    }
    let (kind, copied) = first.unwrap_or((Kind::Unallocated, false));
    Ok(Run {
        kind,
        copied,
        length: covered.min(length),
    })
}

/// Whether `next`, whose cluster lies `distance` bytes after the first one's, goes on with `first`.
fn continues(first: Kind, next: Kind, distance: u64) -> bool {
    match (first, next) {
        (Kind::Data(a), Kind::Data(b))
        | (Kind::ZeroIn(a), Kind::ZeroIn(b))
        | (Kind::UnallocatedIn(a), Kind::UnallocatedIn(b)) => a.checked_add(distance) == Some(b),
        (Kind::Zero, Kind::Zero) | (Kind::Unallocated, Kind::Unallocated) => true,
        // Within one cluster only: each compressed cluster is read by itself.
        (Kind::Compressed(a), Kind::Compressed(b)) => a == b && distance == 0,
        _ => false,
    }
}
