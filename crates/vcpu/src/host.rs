//! The host's KVM: whether it can be used, what it is capable of and what kind it is.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use crate::arch::{self, CpuidTable, HostKind};
use crate::error::{Error, Result};

/// Where the KVM device is.
pub const KVM_PATH: &str = "/dev/kvm";

/// KVM_CAP_* that kvm-ioctls has no name for.
const CAP_X86_DISABLE_EXITS: u32 = 143;
const CAP_MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
const CAP_PMU_CAPABILITY: u32 = 212;

/// An open KVM device.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    kind: HostKind,
    pub(crate) msr_indices: OnceLock<Vec<u32>>,
}

impl Host {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// [`Error::KvmAbsent`], [`Error::KvmPermission`], [`Error::KvmOpen`] and
    /// [`Error::KvmApiVersion`].
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(KVM_PATH))
    }

    /// Opens a KVM device that is not at `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_at(path: &Path) -> Result<Self> {
        let kvm = open_kvm(path)?;
        let found = kvm.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(Error::KvmApiVersion {
                path: path.to_owned(),
                found,
            });
        }
        let kind = HostKind::detect(Path::new("/proc"), Path::new("/sys"));
        Ok(Self {
            kvm,
            kind,
            msr_indices: OnceLock::new(),
        })
    }

    /// The KVM device, to create VMs with.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// What stands behind the device.
    pub fn kind(&self) -> HostKind {
        self.kind
    }

    /// Asks for everything in [`Capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::of(&self.kvm)
    }

    /// Checks that nothing is missing that a vCPU cannot do without.
    ///
    /// # Errors
    ///
    /// [`Error::MissingCapabilities`] with all that is missing.
    pub fn check(&self) -> Result<()> {
        let missing = |&(cap, name)| (!self.kvm.check_extension(cap)).then_some(name);
        let names: Vec<_> = arch::REQUIRED.iter().filter_map(missing).collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(Error::MissingCapabilities { names })
        }
    }

    /// What KVM can let CPUID answer on this host.
    ///
    /// # Errors
    ///
    /// [`Error::System`].
    pub fn supported_cpuid(&self) -> Result<CpuidTable> {
        let entries = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| Error::System {
                request: "KVM_GET_SUPPORTED_CPUID",
                source,
            })?;
        let mut table = CpuidTable::from(&entries);
        // The one feature that KVM emulates and does not list before Linux 6.15.
        if self.kvm.check_extension(Cap::TscDeadlineTimer) {
            table.add_tsc_deadline_timer();
        }
        Ok(table)
    }
}

fn open_kvm(path: &Path) -> Result<Kvm> {
    let absent = || Error::KvmAbsent {
        path: path.to_owned(),
    };
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| absent())?;
    Kvm::new_with_path(name).map_err(|source| match source.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => absent(),
        libc::EACCES | libc::EPERM => Error::KvmPermission {
            path: path.to_owned(),
        },
        _ => Error::KvmOpen {
            path: PathBuf::from(path),
            source,
        },
    })
}

/// What a host's KVM is capable of, as far as it makes a difference to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Recommended largest number of vCPUs per VM.
    pub recommended_vcpus: usize,
    /// Largest number of vCPUs per VM.
    pub max_vcpus: usize,
    /// Largest number of memory slots per VM.
    pub memory_slots: usize,
    /// The PIC and IOAPIC can be in user space and the local APICs in the kernel.
    pub split_irqchip: bool,
    /// Level-triggered interrupts through eventfds.
    pub irqfd_resample: bool,
    /// MSIs without a route.
    pub signal_msi: bool,
    /// Writes that ring an eventfd may have any length.
    pub ioeventfd_any_length: bool,
    /// The local APIC's timer can be armed with a TSC value.
    pub tsc_deadline_timer: bool,
    /// A vCPU's TSC can have another frequency than the host's.
    pub tsc_control: bool,
    /// The guest's soft-lockup watchdog can be told of a pause.
    pub kvmclock_ctrl: bool,
    /// A guest's accesses to performance counters can be refused as a whole.
    pub pmu_control: bool,
    /// KVM_X86_DISABLE_EXITS_*: 1 MWAIT, 2 HLT, 4 PAUSE, 8 C-states.
    pub disable_exits: u32,
    /// Bytes of a dirty ring at most; 0 where there is none.
    pub dirty_ring_bytes: u32,
    /// The dirty log can be read without write-protecting at once.
    pub manual_dirty_protect: bool,
    /// Memory slots that only the host can write.
    pub readonly_memory: bool,
    /// Memory that only the guest can map.
    pub guest_memfd: bool,
    /// Failed accesses to guest memory are reported with their address.
    pub memory_fault_info: bool,
    /// Writes to ports can be gathered.
    pub coalesced_pio: bool,
    /// Guests can run guests of their own whose state can be saved.
    pub nested_state: bool,
}

impl Capabilities {
    fn of(kvm: &Kvm) -> Self {
        let number =
            |cap: u32| u32::try_from(kvm.check_extension_raw(cap.into())).unwrap_or_default();
        Self {
            recommended_vcpus: kvm.get_nr_vcpus(),
            max_vcpus: kvm.get_max_vcpus(),
            memory_slots: kvm.get_nr_memslots(),
            split_irqchip: kvm.check_extension(Cap::SplitIrqchip),
            irqfd_resample: kvm.check_extension(Cap::IrqfdResample),
            signal_msi: kvm.check_extension(Cap::SignalMsi),
            ioeventfd_any_length: kvm.check_extension(Cap::IoeventfdNoLength),
            tsc_deadline_timer: kvm.check_extension(Cap::TscDeadlineTimer),
            tsc_control: kvm.check_extension(Cap::TscControl),
            kvmclock_ctrl: kvm.check_extension(Cap::KvmclockCtrl),
            pmu_control: number(CAP_PMU_CAPABILITY) & arch::PMU_CAP_DISABLE != 0,
            disable_exits: number(CAP_X86_DISABLE_EXITS),
            dirty_ring_bytes: number(Cap::DirtyLogRing as u32),
            manual_dirty_protect: number(CAP_MANUAL_DIRTY_LOG_PROTECT2) != 0,
            readonly_memory: kvm.check_extension(Cap::ReadonlyMem),
            guest_memfd: kvm.check_extension(Cap::GuestMemfd),
            memory_fault_info: kvm.check_extension(Cap::MemoryFaultInfo),
            coalesced_pio: kvm.check_extension(Cap::CoalescedPio),
            nested_state: kvm.check_extension(Cap::NestedState),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_not_opening_kvm_has_its_error() {
        let absent = Host::open_at(Path::new("/nonexistent/kvm"));
        assert!(matches!(absent, Err(Error::KvmAbsent { .. })), "{absent:?}");
        let not_kvm = Host::open_at(Path::new("/dev/null"));
        assert!(
            matches!(not_kvm, Err(Error::KvmApiVersion { .. })),
            "{not_kvm:?}"
        );
        let directory = Host::open_at(Path::new("/proc"));
        assert!(
            matches!(directory, Err(Error::KvmOpen { .. })),
            "{directory:?}"
        );
    }
}
