//! Model-specific registers: the boot set, and reading and writing many with each failure named.

use kvm_bindings::{Msrs, kvm_msr_entry};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::vcpu::Vcpu;

const IA32_TSC: u32 = 0x10;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_MC0_CTL: u32 = 0x400;
const IA32_MC0_MISC: u32 = 0x403;
pub(super) const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// The largest number of MSRs in one KVM_GET_MSRS or KVM_SET_MSRS is 256 (MAX_IO_MSRS in KVM).
const BATCH: usize = 256;

/// More than any KVM lists, so that a damaged state is not taken for one.
pub(super) const MAX_MSRS: usize = 1024;

/// One model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsrEntry {
    /// Its number.
    pub index: u32,
    /// Its content.
    pub value: u64,
}

/// What firmware would leave behind: fast strings on, no branch trace store and no PEBS (SDM
/// volume 4, table 2-2), and all memory write-back by default.
const BOOT_MSRS: [MsrEntry; 2] = [
    MsrEntry {
        index: IA32_MISC_ENABLE,
        value: 1 | 1 << 11 | 1 << 12,
    },
    MsrEntry {
        index: IA32_MTRR_DEF_TYPE,
        value: (1 << 11) | 6,
    },
];

impl Host {
    /// The MSRs that KVM says are part of a vCPU's state, in an order in which they can be
    /// restored, and those of the machine-check bank, which it does not list.
    pub(crate) fn saved_msrs(&self) -> Result<&[u32]> {
        if let Some(indices) = self.msr_indices.get() {
            return Ok(indices);
        }
        let list = self
            .kvm()
            .get_msr_index_list()
            .map_err(|source| Error::System {
                request: "KVM_GET_MSR_INDEX_LIST",
                source,
            })?;
        let mut indices = list.as_slice().to_vec();
        indices.extend(IA32_MC0_CTL..=IA32_MC0_MISC);
        // A deadline is compared with the TSC when it is written.
        indices.sort_by_key(|&index| match index {
            IA32_TSC => 0,
            IA32_TSC_DEADLINE => 2,
            _ => 1,
        });
        indices.dedup();
        Ok(self.msr_indices.get_or_init(|| indices))
    }
}

impl Vcpu {
    /// Writes the MSRs that firmware would have set up. [`boot`](Self::boot) does so too.
    ///
    /// # Errors
    ///
    /// [`Error::MsrWrite`] and [`Error::Vcpu`].
    pub fn init_msrs(&self) -> Result<()> {
        self.write_msrs(&BOOT_MSRS)
    }

    /// Reads those of `indices` that this vCPU has.
    pub(super) fn read_msrs(&self, indices: &[u32]) -> Result<Vec<MsrEntry>> {
        let mut entries = Vec::with_capacity(indices.len());
        for batch in indices.chunks(BATCH) {
            let mut rest = batch;
            while !rest.is_empty() {
                let read = self.read_leading_msrs(rest)?;
                // KVM stops at the first that it cannot read: that one is left out.
                rest = rest.get(read.len() + 1..).unwrap_or_default();
                entries.extend(read);
            }
        }
        Ok(entries)
    }

    fn read_leading_msrs(&self, indices: &[u32]) -> Result<Vec<MsrEntry>> {
        let mut msrs = self.msr_batch(indices.iter().map(|&index| MsrEntry { index, value: 0 }))?;
        let read = self
            .fd
            .get_msrs(&mut msrs)
            .map_err(self.failed("KVM_GET_MSRS"))?;
        let entry = |m: &kvm_msr_entry| MsrEntry {
            index: m.index,
            value: m.data,
        };
        Ok(msrs.as_slice().iter().take(read).map(entry).collect())
    }

    /// Writes all of `entries`. One that KVM refuses must hold its value already: some of those
    /// that KVM lists can only be read.
    pub(super) fn write_msrs(&self, entries: &[MsrEntry]) -> Result<()> {
        for batch in entries.chunks(BATCH) {
            let mut rest = batch;
            while !rest.is_empty() {
                let msrs = self.msr_batch(rest.iter().copied())?;
                let written = self
                    .fd
                    .set_msrs(&msrs)
                    .map_err(self.failed("KVM_SET_MSRS"))?;
                if let Some(refused) = rest.get(written)
                    && self.read_leading_msrs(&[refused.index])?.first() != Some(refused)
                {
                    let MsrEntry { index: msr, value } = *refused;
                    return Err(Error::MsrWrite {
                        vcpu: self.index,
                        msr,
                        value,
                    });
                }
                rest = rest.get(written + 1..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn msr_batch(&self, entries: impl Iterator<Item = MsrEntry>) -> Result<Msrs> {
        let entries: Vec<_> = entries
            .map(|e| kvm_msr_entry {
                index: e.index,
                data: e.value,
                ..Default::default()
            })
            .collect();
        Msrs::from_entries(&entries).map_err(|_| Error::InvalidState {
            vcpu: self.index,
            reason: "more MSRs than KVM takes at once",
        })
    }
}
