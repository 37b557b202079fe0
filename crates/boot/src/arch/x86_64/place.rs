//! Where kernel and initrd go.

use std::ops::Range;

use vm_memory::GuestMemoryBackend;

use super::layout::{HIGH_RAM, MAPPED_END};
use super::memory_map::{MemoryKind, MemoryRange, ram, without};
use crate::error::{Error, Result};
use crate::initrd::Initrd;
use crate::kernel::{Image, Kernel};

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;

/// Loads the kernel where it wants to be and returns the addresses that it occupies while it
/// starts.
///
/// Guest memory must be zero where the kernel goes: zeroes are not written.
pub(super) fn load_kernel<M: GuestMemoryBackend>(kernel: &Kernel, mem: &M) -> Result<Range<u64>> {
    let what = "the kernel";
    let occupied = kernel.occupies();
    let ram = ram(mem);
    match &kernel.image {
        Image::BzImage(image) => {
            check_room(&ram, occupied.clone())?;
            let (offset, len) = (image.kernel.start, kernel.loaded_bytes());
            kernel
                .source()
                .load(what, offset, len, mem, occupied.start)?;
        }
        Image::Elf(elf) => {
            for segment in &elf.segments {
                check_room(&ram, segment.gpa..segment.end())?;
            }
            for s in elf.segments.iter().filter(|s| s.file_len > 0) {
                kernel
                    .source()
                    .load(what, s.offset, s.file_len, mem, s.gpa)?;
            }
        }
    }
    Ok(occupied)
}

/// Refuses a range that is not all RAM above the first megabyte and below 4 GiB.
fn check_room(ram: &[Range<u64>], range: Range<u64>) -> Result<()> {
    if range.start < HIGH_RAM {
        return Err(Error::Malformed {
            what: "it wants to be loaded below 1 MiB",
        });
    }
    if range.end > MAPPED_END {
        let what = "highest load address";
        return Err(Error::OverLimit {
            what,
            value: range.end,
            max: MAPPED_END,
        });
    }
    let region = ram.iter().find(|ram| ram.contains(&range.start));
    let have = region.map_or(range.start, |ram| ram.end);
    if range.end > have {
        return Err(Error::KernelDoesNotFit {
            start: range.start,
            end: range.end,
            have,
        });
    }
    Ok(())
}

/// Loads the initrd beside the kernel and returns where it lies.
pub(super) fn load_initrd<M: GuestMemoryBackend>(
    initrd: &Initrd,
    kernel: &Range<u64>,
    limit: u64,
    map: &[MemoryRange],
    mem: &M,
) -> Result<Range<u64>> {
    let in_file = |e| Error::Initrd {
        path: initrd.path().to_owned(),
        source: Box::new(e),
    };
    let size = initrd.size();
    let range = place_initrd(size, kernel, limit, map)
        .map_err(|room| in_file(Error::InitrdDoesNotFit { size, room }))?;
    initrd
        .source()
        .load("the initrd", 0, size, mem, range.start)
        .map_err(in_file)?;
    Ok(range)
}

/// Finds a page-aligned place below `limit`, or the size of the largest that there is.
///
/// A small initrd shares the first huge page with the boot parameters, which saves the host a
/// fault and the clearing of 2 MiB. Any other goes as high as it can, where it disturbs neither the
/// kernel nor the small memory that old DMA needs.
fn place_initrd(
    size: u64,
    kernel: &Range<u64>,
    limit: u64,
    map: &[MemoryRange],
) -> Result<Range<u64>, u64> {
    let taken = [MemoryRange {
        range: kernel.clone(),
        kind: MemoryKind::Ram,
    }];
    let mut free = Vec::new();
    for entry in map.iter().filter(|e| e.kind == MemoryKind::Ram) {
        let range = entry.range.start.max(HIGH_RAM)..entry.range.end.min(limit);
        without(range, &taken, |piece| {
            let start = piece.start.next_multiple_of(PAGE);
            free.push(start..(piece.end & !(PAGE - 1)).max(start));
        });
    }
    let fits = |piece: &&Range<u64>| piece.end - piece.start >= size;
    let low = free
        .first()
        .filter(|p| p.start == HIGH_RAM && p.end >= p.start + size);
    if let Some(low) = low.filter(|p| p.start + size <= HUGE_PAGE) {
        return Ok(low.start..low.start + size);
    }
    match free.iter().rev().find(fits) {
        Some(piece) => {
            let start = (piece.end - size) & !(PAGE - 1);
            Ok(start..start + size)
        }
        None => Err(free.iter().map(|p| p.end - p.start).max().unwrap_or(0)),
    }
}
