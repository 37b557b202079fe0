//! The memory map that the guest is told.

use std::ops::Range;

use vm_memory::{Address as _, GuestMemoryBackend, GuestMemoryRegion as _};

use super::layout;

/// What a range of guest-physical addresses is; the numbers are those of e820 and PVH alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Free to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// One entry of the memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Guest-physical addresses.
    pub range: Range<u64>,
    /// What they are.
    pub kind: MemoryKind,
}

/// Describes guest memory: its regions as RAM but for what PCs keep below 1 MiB and the `reserved`
/// ranges (an ECAM window, for example), in ascending order. Regions that touch are one entry.
pub fn memory_map<M: GuestMemoryBackend>(mem: &M, reserved: &[Range<u64>]) -> Vec<MemoryRange> {
    let mut holes = vec![
        entry(layout::LOW_RAM_END..layout::VGA, MemoryKind::Reserved),
        entry(
            layout::ACPI..layout::ACPI + layout::ACPI_SIZE as u64,
            MemoryKind::Acpi,
        ),
    ];
    let reserved = reserved.iter().filter(|range| !range.is_empty());
    holes.extend(reserved.map(|range| entry(range.clone(), MemoryKind::Reserved)));
    holes.sort_by_key(|hole| hole.range.start);

    let mut map = holes.clone();
    holes.push(entry(layout::VGA..layout::ACPI, MemoryKind::Reserved));
    holes.sort_by_key(|hole| hole.range.start);
    for region in ram(mem) {
        without(region, &holes, |range| {
            map.push(entry(range, MemoryKind::Ram))
        });
    }
    map.sort_by_key(|e| e.range.start);
    map
}

/// The regions of guest memory in ascending order, those that touch as one.
pub(super) fn ram<M: GuestMemoryBackend>(mem: &M) -> Vec<Range<u64>> {
    let mut ram: Vec<Range<u64>> = mem
        .iter()
        .map(|region| {
            let start = region.start_addr().raw_value();
            start..start.saturating_add(region.len())
        })
        .collect();
    ram.sort_by_key(|range| range.start);
    ram.dedup_by(|next, last| {
        let touches = last.end == next.start;
        if touches {
            last.end = next.end;
        }
        touches
    });
    ram
}

/// Calls `keep` with each piece of `range` that no hole covers; the holes are in ascending order.
pub(super) fn without(range: Range<u64>, holes: &[MemoryRange], mut keep: impl FnMut(Range<u64>)) {
    let mut start = range.start;
    for hole in holes {
        let end = hole.range.start.min(range.end);
        if start < end {
            keep(start..end);
        }
        start = start.max(hole.range.end);
    }
    if start < range.end {
        keep(start..range.end);
    }
}

fn entry(range: Range<u64>, kind: MemoryKind) -> MemoryRange {
    MemoryRange { range, kind }
}
