//! What the kernel is told in memory: Linux's zero page, or PVH's start info.

use std::ops::Range;

use super::layout;
use super::memory_map::MemoryRange;
use crate::bytes::put;
use crate::error::{Error, Result};
use crate::kernel::Image;
use crate::kernel::bzimage::{BOOT_FLAG, HEADER_MAGIC, SETUP_HEADER};

/// What both forms carry.
pub(super) struct Params<'a> {
    pub(super) map: &'a [MemoryRange],
    pub(super) initrd: Option<&'a Range<u64>>,
    pub(super) rsdp: Option<u64>,
}

impl Params<'_> {
    fn check_map(&self, max: usize) -> Result<()> {
        let count = self.map.len();
        if count > max {
            Err(Error::MemoryMapTooLong { count, max })
        } else {
            Ok(())
        }
    }

    /// Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`, "64-bit boot protocol"; the
    /// setup header is a bzImage's own or, for an ELF kernel, what such a kernel still reads.
    pub(super) fn zero_page(&self, image: &Image) -> Result<Vec<u8>> {
        const SIZE: usize = 4096;
        const E820_TABLE: usize = 0x2d0;
        const E820_ENTRY: usize = 20;
        const E820_MAX: usize = 128;
        /// "Undefined", as a loader without an assigned number is to say.
        const TYPE_OF_LOADER: u8 = 0xff;
        const LOADED_HIGH: u8 = 1;

        self.check_map(E820_MAX)?;
        let mut page = vec![0; SIZE];
        if let Image::BzImage(image) = image {
            put(&mut page, SETUP_HEADER, &image.setup_header);
            // Below 4 GiB, as the check of its place has made sure.
            put(&mut page, 0x214, &(image.load_address as u32).to_le_bytes());
        } else {
            put(&mut page, 0x1fe, &BOOT_FLAG.to_le_bytes());
            put(&mut page, 0x202, HEADER_MAGIC);
            put(&mut page, 0x206, &0x20c_u16.to_le_bytes());
            put(&mut page, 0x230, &0x20_0000_u32.to_le_bytes());
        }
        // Normal video mode.
        put(&mut page, 0x1fa, &0xffff_u16.to_le_bytes());
        page[0x210] = TYPE_OF_LOADER;
        page[0x211] |= LOADED_HIGH;
        put(
            &mut page,
            0x228,
            &(layout::COMMAND_LINE as u32).to_le_bytes(),
        );
        if let Some(initrd) = self.initrd {
            put(&mut page, 0x218, &(initrd.start as u32).to_le_bytes());
            put(
                &mut page,
                0x21c,
                &((initrd.end - initrd.start) as u32).to_le_bytes(),
            );
        }
        put(&mut page, 0x70, &self.rsdp.unwrap_or(0).to_le_bytes());
        page[0x1e8] = self.map.len() as u8;
        for (entry, slot) in self
            .map
            .iter()
            .zip(page[E820_TABLE..].chunks_mut(E820_ENTRY))
        {
            put(slot, 0, &entry.range.start.to_le_bytes());
            put(
                slot,
                8,
                &(entry.range.end - entry.range.start).to_le_bytes(),
            );
            put(slot, 16, &(entry.kind as u32).to_le_bytes());
        }
        Ok(page)
    }

    /// Xen's `public/arch-x86/hvm/start_info.h`, version 1: the structure, then the module list
    /// with the initrd, then the memory map.
    pub(super) fn start_info(&self) -> Result<Vec<u8>> {
        const MAGIC: u32 = 0x336e_c578;
        const MODULES: usize = 0x40;
        const MEMORY_MAP: usize = 0x80;
        const ENTRY: usize = 24;
        const SIZE: usize = (layout::ZERO_PAGE - layout::START_INFO) as usize;

        self.check_map((SIZE - MEMORY_MAP) / ENTRY)?;
        let mut page = vec![0; SIZE];
        put(&mut page, 0, &MAGIC.to_le_bytes());
        put(&mut page, 4, &1_u32.to_le_bytes());
        if let Some(initrd) = self.initrd {
            put(&mut page, 12, &1_u32.to_le_bytes());
            put(
                &mut page,
                16,
                &(layout::START_INFO + MODULES as u64).to_le_bytes(),
            );
            put(&mut page, MODULES, &initrd.start.to_le_bytes());
            put(
                &mut page,
                MODULES + 8,
                &(initrd.end - initrd.start).to_le_bytes(),
            );
        }
        put(&mut page, 24, &layout::COMMAND_LINE.to_le_bytes());
        put(&mut page, 32, &self.rsdp.unwrap_or(0).to_le_bytes());
        put(
            &mut page,
            40,
            &(layout::START_INFO + MEMORY_MAP as u64).to_le_bytes(),
        );
        put(&mut page, 48, &(self.map.len() as u32).to_le_bytes());
        for (entry, slot) in self.map.iter().zip(page[MEMORY_MAP..].chunks_mut(ENTRY)) {
            put(slot, 0, &entry.range.start.to_le_bytes());
            put(
                slot,
                8,
                &(entry.range.end - entry.range.start).to_le_bytes(),
            );
            put(slot, 16, &(entry.kind as u32).to_le_bytes());
        }
        page.truncate(MEMORY_MAP + self.map.len() * ENTRY);
        Ok(page)
    }
}
