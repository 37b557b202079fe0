//! Why a vCPU ended, for programs and for people.

use std::fmt;

use crate::arch::Registers;

/// The longest instruction that the architecture allows, in bytes.
pub(crate) const MAX_INSTRUCTION: usize = 15;

/// Why a vCPU ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The guest asked to be powered off.
    Shutdown,
    /// The guest asked to be reset.
    Reset,
    /// The guest halted, and no in-kernel local APIC exists that could wake it.
    Halted,
    /// [`VcpuThread::stop`](crate::VcpuThread::stop) was called.
    Stopped,
    /// The guest or KVM cannot go on.
    Abnormal(Box<AbnormalExit>),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Halted => f.write_str("the guest halted with no local APIC to wake it"),
            Self::Stopped => f.write_str("stopped by request"),
            Self::Abnormal(exit) => exit.fmt(f),
        }
    }
}

/// Why a vCPU cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// An exception could not be delivered, nor the double fault after it (KVM_EXIT_SHUTDOWN).
    TripleFault,
    /// KVM gave up (KVM_EXIT_INTERNAL_ERROR).
    InternalError {
        /// KVM_INTERNAL_ERROR_*: 1 is an instruction that KVM can not emulate.
        suberror: u32,
        /// Details, as the suberror defines them.
        data: Vec<u64>,
    },
    /// The processor refused to enter the guest (KVM_EXIT_FAIL_ENTRY).
    FailEntry {
        /// VT-x: the VM-instruction error or exit reason; AMD-V: the VMCB's exit code.
        hardware_reason: u64,
        /// The host's processor that refused.
        cpu: u32,
    },
    /// An exit that KVM itself does not know (KVM_EXIT_UNKNOWN).
    Unknown {
        /// The processor's exit reason.
        hardware_reason: u64,
    },
    /// Guest memory could not be had from the host (KVM_EXIT_MEMORY_FAULT).
    MemoryFault {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// KVM_MEMORY_EXIT_FLAG_*.
        flags: u64,
    },
    /// A system event that is neither a shutdown nor a reset (KVM_EXIT_SYSTEM_EVENT).
    SystemEvent {
        /// KVM_SYSTEM_EVENT_*.
        kind: u32,
        /// Details.
        data: Vec<u64>,
    },
    /// An exit that nobody asked KVM for.
    Unexpected {
        /// The exit, as kvm-ioctls prints it.
        exit: String,
    },
    /// KVM_RUN itself failed.
    Run {
        /// What the kernel answered.
        errno: i32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault: the guest could not take an exception"),
            Self::InternalError { suberror, data } => {
                let what = match suberror {
                    1 => "it cannot emulate the instruction",
                    2 => "two exceptions at once",
                    3 => "an exit while it delivered an event",
                    4 => "an exit that it did not expect",
                    _ => "undocumented",
                };
                write!(
                    f,
                    "internal error of KVM, suberror {suberror} ({what}), data {data:#x?}"
                )
            }
            Self::FailEntry {
                hardware_reason,
                cpu,
            } => write!(
                f,
                "the processor refused to enter the guest: hardware reason {hardware_reason:#x} \
                 on host CPU {cpu}"
            ),
            Self::Unknown { hardware_reason } => {
                write!(
                    f,
                    "an exit that KVM does not know, hardware reason {hardware_reason:#x}"
                )
            }
            Self::MemoryFault { gpa, size, flags } => write!(
                f,
                "the host cannot provide {size} bytes of guest memory at {gpa:#x} (flags {flags:#x})"
            ),
            Self::SystemEvent { kind, data } => write!(f, "system event {kind}, data {data:#x?}"),
            Self::Unexpected { exit } => write!(f, "an unexpected exit: {exit}"),
            Self::Run { errno } => {
                write!(
                    f,
                    "KVM_RUN failed: {}",
                    std::io::Error::from_raw_os_error(*errno)
                )
            }
        }
    }
}

/// Why a vCPU cannot go on, and where it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct AbnormalExit {
    /// The vCPU's index.
    pub vcpu: u32,
    /// Why.
    pub cause: Cause,
    /// The registers, unless KVM would not tell them.
    pub registers: Option<Registers>,
    /// Up to 15 bytes at the instruction pointer; empty where they can not be read.
    pub instruction: Vec<u8>,
}

impl fmt::Display for AbnormalExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vcpu{}: {}", self.vcpu, self.cause)?;
        if let Some(registers) = &self.registers {
            write!(f, "\n{registers}")?;
        }
        f.write_str("\ncode")?;
        if self.instruction.is_empty() {
            return f.write_str(" (no memory at the instruction pointer)");
        }
        self.instruction
            .iter()
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

impl std::error::Error for AbnormalExit {}
