//! A tiny machine that runs payload guests: a VM, memory from guest-physical address 0, vCPUs in
//! one of three modes, and a handler that records what the guest does.
//!
//! Its functions panic with a sentence when KVM fails, as tests do.
#![allow(clippy::expect_used)]

mod mode;
mod recorder;

use std::sync::Arc;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::VmFd;

pub use mode::{HIGH, LongMode, Mode, STACK_TOP};
pub use recorder::{Access, Recorder};

use crate::arch::{CpuidConfig, CpuidTemplate, Topology};
use crate::sys::ram::Ram;
use crate::{Host, Vcpu};

/// Where payloads are loaded and start: on a page of its own, so that a SIPI can reach it.
pub const CODE_ADDR: u64 = 0x1_0000;

/// Enables the local APIC in x2APIC mode, with 0xff as its spurious vector. Changes EAX, ECX and
/// EDX, of which EDX is left zero. (SDM volume 3, 12.9 and 12.12.)
pub const ENABLE_X2APIC: [u8; 28] = [
    0xb9, 0x1b, 0x00, 0x00, 0x00, // mov ecx, IA32_APIC_BASE
    0x0f, 0x32, // rdmsr
    0x0d, 0x00, 0x0c, 0x00, 0x00, // or eax, enabled and x2APIC
    0x0f, 0x30, // wrmsr
    0x31, 0xd2, // xor edx, edx
    0xb9, 0x0f, 0x08, 0x00, 0x00, // mov ecx, IA32_X2APIC_SIVR
    0xb8, 0xff, 0x01, 0x00, 0x00, // mov eax, enabled, vector 0xff
    0x0f, 0x30, // wrmsr
];

/// Who emulates the interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Irqchip {
    /// Nobody: a halted vCPU ends.
    None,
    /// The kernel.
    Kernel,
    /// The kernel has the local APICs only.
    Split,
}

/// A VM with memory from address 0.
#[derive(Debug)]
pub struct TestVm {
    vm: VmFd,
    ram: Arc<Ram>,
    cpuid: CpuidTemplate,
    host: Arc<Host>,
}

impl TestVm {
    /// A VM with 2 MiB of memory, and CPUID for two vCPUs.
    ///
    /// # Panics
    ///
    /// With a sentence that says why, where KVM can not be used.
    pub fn new(irqchip: Irqchip) -> Self {
        Self::with_memory(irqchip, 2 << 20)
    }

    /// A VM with `len` bytes of memory, a multiple of 4096.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_memory(irqchip: Irqchip, len: usize) -> Self {
        let host = Host::open().unwrap_or_else(|e| panic!("payload guests need KVM: {e}"));
        let vm = host.kvm().create_vm().expect("KVM_CREATE_VM");
        let ram = Arc::new(Ram::map(len).expect("guest memory"));
        ram.attach(&vm).expect("KVM_SET_USER_MEMORY_REGION");
        match irqchip {
            Irqchip::None => {}
            Irqchip::Kernel => vm.create_irq_chip().expect("KVM_CREATE_IRQCHIP"),
            Irqchip::Split => vm
                .enable_cap(&kvm_enable_cap {
                    cap: KVM_CAP_SPLIT_IRQCHIP,
                    args: [24, 0, 0, 0],
                    ..Default::default()
                })
                .expect("KVM_CAP_SPLIT_IRQCHIP"),
        }
        let supported = host.supported_cpuid().expect("KVM_GET_SUPPORTED_CPUID");
        let cpuid = CpuidConfig::new(Topology::cores(2))
            .build(&supported)
            .expect("CPUID");
        Self {
            vm,
            ram,
            cpuid,
            host: Arc::new(host),
        }
    }

    /// The host, for saving and restoring.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The VM, for eventfds, interrupts and the like.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Copies `data` into guest memory.
    ///
    /// # Panics
    ///
    /// If it does not fit.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        assert!(
            self.ram.write(gpa, data),
            "{} bytes at {gpa:#x} do not fit",
            data.len()
        );
    }

    /// Reads guest memory into `out`.
    ///
    /// # Panics
    ///
    /// If it reaches beyond the memory's end.
    pub fn read(&self, gpa: u64, out: &mut [u8]) {
        assert!(
            self.ram.read(gpa, out),
            "no {} bytes at {gpa:#x}",
            out.len()
        );
    }

    /// Copies all memory of `other`, which has as much.
    ///
    /// # Panics
    ///
    /// If it has more.
    pub fn copy_memory_from(&self, other: &Self) {
        let mut all = vec![0; other.ram.len()];
        other.read(0, &mut all);
        self.write(0, &all);
    }

    /// A vCPU in its reset state, with its CPUID set.
    ///
    /// # Panics
    ///
    /// If KVM fails.
    pub fn vcpu(&self, index: u32) -> Vcpu {
        let mut vcpu = Vcpu::new(&self.vm, index).expect("vCPU");
        let table = self.cpuid.for_vcpu(index).expect("CPUID of the vCPU");
        vcpu.set_cpuid(table).expect("KVM_SET_CPUID2");
        vcpu
    }

    /// vCPU 0, which starts with `code` at [`CODE_ADDR`] in `mode`.
    ///
    /// # Panics
    ///
    /// If KVM fails.
    pub fn vcpu_with_code(&self, mode: &Mode, code: &[u8]) -> Vcpu {
        self.write(CODE_ADDR, code);
        let vcpu = self.vcpu(0);
        mode.enter(self, &vcpu);
        vcpu
    }

    /// A handler that can read this VM's memory.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(Arc::clone(&self.ram))
    }
}
