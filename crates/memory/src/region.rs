use std::fs::File;

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestMemoryResult, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use crate::sys::Mapping;
use crate::{DirtyBitmap, Pages};

/// A contiguous part of guest RAM: what one memory slot of a hypervisor takes.
///
/// It owns its mapping, so a clone of the guest memory keeps the mapping alive.
#[derive(Debug)]
pub struct Region {
    pub(crate) slot: usize,
    pub(crate) guest_base: GuestAddress,
    pub(crate) size: u64,
    pub(crate) pages: Pages,
    pub(crate) mapping: Mapping,
    /// The memory file of shared RAM.
    pub(crate) file: Option<FileOffset>,
    pub(crate) bitmap: DirtyBitmap,
}

impl Region {
    /// The index of the region among those of its guest RAM, from 0.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The guest-physical address of the first byte.
    pub fn guest_base(&self) -> GuestAddress {
        self.guest_base
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The host pages that the region is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// The address of the first byte in this process. It is congruent to
    /// [`guest_base`](Self::guest_base) modulo 2 MiB, and modulo 1 GiB for [`Pages::Huge1G`].
    ///
    /// It is for those who map: a hypervisor, io_uring, userfaultfd. Writes through it are not
    /// noted in the [`dirty_bitmap`](Self::dirty_bitmap).
    pub fn host_addr(&self) -> *mut u8 {
        self.mapping.addr()
    }

    /// The memory file of shared RAM and the offset of the first byte in it. RAM of another
    /// backing has none: no other process can see its bytes.
    pub fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|file| (file.file(), file.start()))
    }

    /// The pages that were written through this crate; offsets in it are from
    /// [`guest_base`](Self::guest_base).
    pub fn dirty_bitmap(&self) -> &DirtyBitmap {
        &self.bitmap
    }
}

impl GuestMemoryRegion for Region {
    type B = DirtyBitmap;

    #[inline]
    fn len(&self) -> GuestUsize {
        self.size
    }

    #[inline]
    fn start_addr(&self) -> GuestAddress {
        self.guest_base
    }

    #[inline]
    fn bitmap(&self) -> BS<'_, DirtyBitmap> {
        self.bitmap.slice_at(0)
    }

    #[inline]
    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        let offset = self
            .check_address(addr)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.mapping.addr().wrapping_add(offset.0 as usize))
    }

    #[inline]
    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    #[inline]
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, DirtyBitmap>>> {
        let offset =
            usize::try_from(offset.0).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
        self.mapping
            .slice(offset, count, self.bitmap.slice_at(offset))
            .ok_or(GuestMemoryError::InvalidBackendAddress)
    }

    #[inline]
    fn is_hugetlbfs(&self) -> Option<bool> {
        Some(self.pages.is_hugetlb())
    }
}

impl GuestMemoryRegionBytes for Region {}
