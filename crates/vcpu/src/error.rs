use std::path::PathBuf;

use vmm_sys_util::errno;

/// What went wrong, and on which vCPU, file or register.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The KVM device node does not exist, or no KVM module stands behind it.
    #[error(
        "{path} is absent: load the module kvm_intel or kvm_amd, and enable virtualization in \
         the firmware (in a virtual machine: nested virtualization on its host)"
    )]
    KvmAbsent {
        /// The device node that was opened.
        path: PathBuf,
    },
    /// The user may not open the KVM device node.
    #[error("no permission to open {path}: add the user to the group that owns it (often `kvm`)")]
    KvmPermission {
        /// The device node that was opened.
        path: PathBuf,
    },
    /// The KVM device node cannot be opened for another reason.
    #[error("cannot open {path}: {source}")]
    KvmOpen {
        /// The device node that was opened.
        path: PathBuf,
        /// What the kernel answered.
        source: errno::Error,
    },
    /// The device speaks another version of KVM's interface than 12, the only one in use.
    #[error(
        "{path} speaks KVM API version {found}, and 12 is needed: run a kernel of this century"
    )]
    KvmApiVersion {
        /// The device node that was opened.
        path: PathBuf,
        /// The version that it reports.
        found: i32,
    },
    /// This KVM lacks something that a vCPU cannot do without.
    #[error("this host's KVM lacks {}: run a newer kernel (5.15 or later)", .names.join(", "))]
    MissingCapabilities {
        /// The capabilities' names as in the KVM API documentation.
        names: Vec<&'static str>,
    },
    /// An ioctl on the KVM device failed.
    #[error("{request} on the KVM device: {source}")]
    System {
        /// The ioctl's name.
        request: &'static str,
        /// What the kernel answered.
        source: errno::Error,
    },
    /// An ioctl on a VM or a vCPU of it failed.
    #[error("{request} for vcpu{vcpu}: {source}")]
    Vcpu {
        /// The vCPU's index.
        vcpu: u32,
        /// The ioctl's name.
        request: &'static str,
        /// What the kernel answered.
        source: errno::Error,
    },
    /// The number of vCPUs or of threads per core cannot be had.
    #[error("{vcpus} vCPUs with {threads_per_core} threads per core: {reason}")]
    Topology {
        /// vCPUs asked for.
        vcpus: u32,
        /// Threads per core asked for.
        threads_per_core: u32,
        /// The rule that they break.
        reason: &'static str,
    },
    /// The host's processor lacks features of the named model or of the saved vCPU.
    #[error("this host lacks CPU features that {wanted_by} needs: {}", .names.join(", "))]
    MissingCpuFeatures {
        /// The model or the saved state.
        wanted_by: String,
        /// Names, or leaf, register and bit where a feature has none.
        names: Vec<String>,
    },
    /// A register of the boot set, or of a saved state, was refused.
    #[error("vcpu{vcpu}: MSR {msr:#x} refuses {value:#x}")]
    MsrWrite {
        /// The vCPU's index.
        vcpu: u32,
        /// The register's number.
        msr: u32,
        /// The value that KVM refused.
        value: u64,
    },
    /// A saved state cannot be what `state()` returned.
    #[error("the saved state of vcpu{vcpu} is damaged or of another machine: {reason}")]
    InvalidState {
        /// The vCPU that was to get it.
        vcpu: u32,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Nested virtualization is in use, and its state cannot be saved.
    #[error("vcpu{vcpu} offers nested virtualization, whose state cannot be saved")]
    NestedState {
        /// The vCPU's index.
        vcpu: u32,
    },
    /// The thread of a vCPU could not be started.
    #[error("cannot start the thread of vcpu{vcpu}: {source}")]
    Spawn {
        /// The vCPU's index.
        vcpu: u32,
        /// What the operating system answered.
        source: std::io::Error,
    },
    /// The signal by which a vCPU is kicked could not be set up or sent.
    #[error("cannot {action} the kick signal of vcpu{vcpu}: {source}")]
    Signal {
        /// The vCPU's index.
        vcpu: u32,
        /// `install` or `send`.
        action: &'static str,
        /// What the kernel answered.
        source: errno::Error,
    },
    /// The request needs a paused vCPU.
    #[error("vcpu{vcpu} is not paused")]
    NotPaused {
        /// The vCPU's index.
        vcpu: u32,
    },
    /// The vCPU's thread has ended, so it can not be resumed.
    #[error("vcpu{vcpu} has ended")]
    Ended {
        /// The vCPU's index.
        vcpu: u32,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
