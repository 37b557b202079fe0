//! What the guest says of its memory (virtio 1.2, 5.5.6.3).

/// Statistics of the guest's memory, each if the guest's driver gives it. Bytes, or counts since the
/// guest's start. They are the guest's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    pub free_memory: Option<u64>,
    /// Bytes of memory.
    pub total_memory: Option<u64>,
    /// Bytes that programs could have without swapping.
    pub available_memory: Option<u64>,
    /// Bytes that cache disks.
    pub disk_caches: Option<u64>,
    /// Huge pages allocated.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be.
    pub hugetlb_failures: Option<u64>,
}

impl Stats {
    /// Bytes of an entry: a tag of 16 bits and a value of 64.
    pub(crate) const ENTRY: usize = 10;
    /// Entries that are looked at: there are ten tags.
    pub(crate) const ENTRIES: usize = 32;

    /// The entries of a statistics buffer. Unknown tags and a rest that is no entry are left out.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut stats = Self::default();
        for entry in bytes.chunks_exact(Self::ENTRY) {
            let &[a, b, ref value @ ..] = entry else {
                break;
            };
            let Ok(value) = <[u8; 8]>::try_from(value) else {
                break;
            };
            if let Some(field) = stats.field(u16::from_le_bytes([a, b])) {
                *field = Some(u64::from_le_bytes(value));
            }
        }
        stats
    }

    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            _ => return None,
        })
    }
}
