//! Which vCPUs share a core and a package, in the leaves of both vendors.
//!
//! The APIC id of a vCPU is its index: one package, whose cores have one or two threads.

use super::features::{CMP_LEGACY, HTT, TOPOEXT};
use super::table::{CpuidEntry, CpuidTable, Vendor};
use crate::error::{Error, Result};

/// The number of vCPUs and how they share cores. All are in one package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs, 1 to 254: APIC id 255 is the broadcast.
    pub vcpus: u32,
    /// Threads per core, 1 or 2; it divides the number of vCPUs.
    pub threads_per_core: u32,
}

impl Topology {
    /// `vcpus` cores of one thread each.
    pub fn cores(vcpus: u32) -> Self {
        Self {
            vcpus,
            threads_per_core: 1,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        let Self {
            vcpus,
            threads_per_core,
        } = self;
        let reason = if !(1..=254).contains(&vcpus) {
            "the number of vCPUs must be 1 to 254"
        } else if !(1..=2).contains(&threads_per_core) {
            "a core has 1 or 2 threads"
        } else if vcpus % threads_per_core != 0 {
            "the threads do not fill all cores"
        } else {
            return Ok(());
        };
        Err(Error::Topology {
            vcpus,
            threads_per_core,
            reason,
        })
    }

    /// Bits of an APIC id that tell the threads of a core apart.
    fn thread_bits(self) -> u32 {
        self.threads_per_core.trailing_zeros()
    }

    /// Bits of an APIC id that tell the threads of the package apart.
    fn package_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    /// Threads that share a cache of the given level. Only the last level is shared by cores.
    fn sharing(self, level: u32) -> u32 {
        if level >= 3 {
            1 << self.package_bits()
        } else {
            self.threads_per_core
        }
    }

    /// Writes what is the same for all vCPUs.
    pub(super) fn apply(self, table: &mut CpuidTable) {
        let amd = table.vendor() == Vendor::Amd;
        table.set(HTT, self.vcpus > 1);
        table.set(
            CMP_LEGACY,
            amd && self.vcpus > 1 && self.threads_per_core == 1,
        );
        if let Some(leaf) = table.get_mut(1, 0) {
            // Bits 23-16 count APIC ids, bits 15-8 are the CLFLUSH line in units of 8 bytes.
            let ids = 1 << self.package_bits();
            leaf.ebx = leaf.ebx & 0xff | 8 << 8 | u32::min(ids, 255) << 16;
        }
        if let Some(leaf) = table.get_mut(0x8000_0008, 0) {
            leaf.ecx = if amd {
                self.package_bits() << 12 | (self.vcpus - 1)
            } else {
                0
            };
        }
        for cache in table
            .entries
            .iter_mut()
            .filter(|e| matches!(e.function, 4 | 0x8000_001d))
        {
            self.apply_to_cache(cache);
        }
        // Without leaf 0x1F, guests read leaf 0xB, which says as much for a single package.
        table.replace_leaf(0x1f, &[]);
        table.replace_leaf(0x8000_0026, &[]);
        if !amd || !table.has(TOPOEXT) {
            table.replace_leaf(0x8000_001d, &[]);
            table.replace_leaf(0x8000_001e, &[]);
        }
    }

    /// Bits 25-14 are the threads that share the cache, bits 31-26 (leaf 4 only) the cores of the
    /// package, each less one.
    fn apply_to_cache(self, cache: &mut CpuidEntry) {
        if cache.eax & 0x1f == 0 {
            return;
        }
        let level = cache.eax >> 5 & 7;
        let threads = (self.sharing(level) - 1) << 14;
        let cores = match cache.function {
            4 => ((1 << (self.package_bits() - self.thread_bits())) - 1u32).min(0x3f) << 26,
            _ => 0,
        };
        cache.eax = cache.eax & 0x3fff | threads | cores;
    }

    /// Writes what is vCPU `id`'s own.
    pub(super) fn apply_to_vcpu(self, table: &mut CpuidTable, id: u32) {
        if let Some(leaf) = table.get_mut(1, 0) {
            leaf.ebx = leaf.ebx & 0x00ff_ffff | id << 24;
        }
        // Level types (SDM volume 2, CPUID leaf 0BH): 1 thread, 2 core, 0 the end.
        let level = |index: u32, shift, count, kind: u32| {
            CpuidEntry::subleaf(0xb, index, [shift, count, kind << 8 | index, id])
        };
        table.replace_leaf(
            0xb,
            &[
                level(0, self.thread_bits(), self.threads_per_core, 1),
                level(1, self.package_bits(), self.vcpus, 2),
                level(2, 0, 0, 0),
            ],
        );
        if let Some(leaf) = table.get_mut(0x8000_001e, 0) {
            let core = id >> self.thread_bits();
            leaf.eax = id;
            leaf.ebx = (self.threads_per_core - 1) << 8 | core;
            leaf.ecx = 0;
            leaf.edx = 0;
        }
    }
}
