use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vmm_sys_util::errno;

/// One of the registers in which CPUID answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Who made the processor, as far as it decides how leaves are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, and all that are not the next.
    Intel,
    /// AMD and Hygon.
    Amd,
}

/// CPUID's answer to one leaf, or to one subleaf of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub struct CpuidEntry {
    /// The leaf, in EAX.
    pub function: u32,
    /// The subleaf, in ECX.
    pub index: u32,
    /// Whether the answer depends on the subleaf.
    pub indexed: bool,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidEntry {
    /// A leaf without subleaves.
    pub fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Self {
        Self {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Self::default()
        }
    }

    /// One subleaf of a leaf.
    pub fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> Self {
        Self {
            index,
            indexed: true,
            ..Self::leaf(function, registers)
        }
    }

    /// The content of a register.
    pub fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    /// A register, to be changed.
    pub fn get_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }

    pub(super) fn is_zero(&self) -> bool {
        [self.eax, self.ebx, self.ecx, self.edx] == [0; 4]
    }
}

/// All of CPUID's answers. A leaf that is not in it answers zeroes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuidTable {
    pub(super) entries: Vec<CpuidEntry>,
}

impl CpuidTable {
    /// All entries, in no order that matters.
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every leaf answers zeroes.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a leaf, or of its subleaf `index`.
    pub fn get(&self, function: u32, index: u32) -> Option<&CpuidEntry> {
        self.entries
            .iter()
            .find(|e| e.function == function && (!e.indexed || e.index == index))
    }

    /// The content of one register; zero for a leaf that is not in the table.
    pub fn register(&self, function: u32, index: u32, register: Register) -> u32 {
        self.get(function, index)
            .map_or(0, |entry| entry.get(register))
    }

    /// The entry of a leaf, or of its subleaf `index`, to be changed.
    pub fn get_mut(&mut self, function: u32, index: u32) -> Option<&mut CpuidEntry> {
        self.entries
            .iter_mut()
            .find(|e| e.function == function && (!e.indexed || e.index == index))
    }

    /// Replaces all entries of the leaf of `new` by `new`.
    pub(super) fn replace_leaf(&mut self, function: u32, new: &[CpuidEntry]) {
        self.entries.retain(|e| e.function != function);
        self.entries.extend(new);
    }

    /// Who made the processor that the table describes.
    pub fn vendor(&self) -> Vendor {
        let id = |register| self.register(0, 0, register).to_le_bytes();
        match [id(Register::Ebx), id(Register::Edx), id(Register::Ecx)]
            .concat()
            .as_slice()
        {
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Intel,
        }
    }

    /// The initial APIC id, from leaf 1.
    pub(crate) fn apic_id(&self) -> Option<u32> {
        self.get(1, 0).map(|leaf| leaf.ebx >> 24)
    }

    pub(crate) fn to_kvm(&self) -> errno::Result<CpuId> {
        let entries: Vec<_> = self
            .entries
            .iter()
            .copied()
            .map(CpuidEntry::to_kvm)
            .collect();
        CpuId::from_entries(&entries).map_err(|_| errno::Error::new(libc::E2BIG))
    }
}

impl CpuidEntry {
    fn to_kvm(self) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function: self.function,
            index: self.index,
            flags: if self.indexed {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: self.eax,
            ebx: self.ebx,
            ecx: self.ecx,
            edx: self.edx,
            ..Default::default()
        }
    }
}

impl From<&CpuId> for CpuidTable {
    fn from(kvm: &CpuId) -> Self {
        let entry = |e: &kvm_cpuid_entry2| CpuidEntry {
            function: e.function,
            index: e.index,
            indexed: e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
            eax: e.eax,
            ebx: e.ebx,
            ecx: e.ecx,
            edx: e.edx,
        };
        Self {
            entries: kvm.as_slice().iter().map(entry).collect(),
        }
    }
}

impl FromIterator<CpuidEntry> for CpuidTable {
    fn from_iter<I: IntoIterator<Item = CpuidEntry>>(entries: I) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}
