//! A guest that writes what it is told to, then idles and reports its interrupts.

use std::arch::global_asm;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use strata_interrupts::{Controller, ControllerState, Kind};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

// Writes the (address, value) pairs at 0xa000, up to address 0; then idles. An interrupt is
// reported between its acceptance and its EOI.
global_asm!(
    ".pushsection .rodata",
    "payload_start:",
    "    mov esi, 0xa000",
    "2:  mov eax, [rsi]",
    "    test eax, eax",
    "    jz 3f",
    "    mov ecx, [rsi + 4]",
    "    mov [rax], ecx",
    "    add rsi, 8",
    "    jmp 2b",
    "3:  sti",
    "4:  out 0x11, al",
    "    jmp 4b",
    // One stub of 16 bytes per vector.
    "    .balign 16",
    "payload_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .balign 16",
    "    push rax",
    "    mov al, vector",
    "    jmp payload_handler",
    ".set vector, vector + 1",
    ".endr",
    "    .balign 16",
    "payload_handler:",
    "    out 0x12, al",
    "    mov eax, 0xfee000b0",
    "    mov dword ptr [rax], 0",
    "    pop rax",
    "    iretq",
    "payload_end:",
    ".popsection",
);

unsafe extern "C" {
    static payload_start: u8;
    static payload_stubs: u8;
    static payload_end: u8;
}

const MEMORY: usize = 2 << 20;
const HIGH: u64 = 0xffff_ffff_8000_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD_LOW: u64 = 0x3000;
const PD_APIC: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const WRITES: u64 = 0xa000;
const STACK_TOP: u64 = 0xf000;
const CODE: u64 = 0x10000;

const LAPIC_SPURIOUS_VECTOR: u64 = 0xfee0_00f0;
pub(crate) const IOREGSEL: u64 = 0xfec0_0000;
pub(crate) const IOWIN: u64 = 0xfec0_0010;

/// Both kinds; none where the environment says that there is no KVM.
pub(crate) fn kinds() -> Vec<Kind> {
    if std::env::var_os("STRATA_TEST_NO_KVM").is_some_and(|value| value == "1") {
        return Vec::new();
    }
    vec![Kind::InKernel, Kind::Split]
}

pub(crate) fn kvm() -> Kvm {
    Kvm::new().unwrap_or_else(|error| {
        panic!("these tests need /dev/kvm ({error}); set STRATA_TEST_NO_KVM=1 to leave them out")
    })
}

/// What the guest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Idle,
    /// It took the interrupt and has not ended it.
    Interrupt(u8),
    /// It ended an interrupt, and the controller has been told.
    Eoi,
}

pub(crate) struct Guest {
    pub(crate) controller: Controller,
    pub(crate) vm: Arc<VmFd>,
    /// Ends of interrupts that came to the controller.
    pub(crate) ends: usize,
    vcpu: VcpuFd,
    memory: GuestMemoryMmap,
}

impl Guest {
    /// A guest that first makes `writes`, with its local APIC enabled.
    pub(crate) fn new(kind: Kind, writes: &[(u64, u32)]) -> Self {
        let guest = Self::blank(kind);
        let enable = [(LAPIC_SPURIOUS_VECTOR, 0x1ff)];
        let pairs = enable.iter().chain(writes).map(|&(address, value)| {
            u64::from(u32::try_from(address).unwrap()) | u64::from(value) << 32
        });
        guest.put(WRITES, &pairs.collect::<Vec<_>>());
        guest.put_tables();
        guest.put_code();
        guest.set_boot_registers();
        guest
    }

    fn blank(kind: Kind) -> Self {
        let kvm = kvm();
        let vm = Arc::new(kvm.create_vm().unwrap());
        vm.set_tss_address(0xfffb_d000).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let region = kvm_userspace_memory_region {
            memory_size: MEMORY as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is of this size, and outlives the VM's use of it in this struct.
        unsafe { vm.set_user_memory_region(region) }.unwrap();
        let controller = Controller::new(Arc::clone(&vm), kind).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap())
            .unwrap();
        Self {
            controller,
            vm,
            ends: 0,
            vcpu,
            memory,
        }
    }

    fn put(&self, address: u64, values: &[u64]) {
        for (index, &value) in values.iter().enumerate() {
            self.memory
                .write_obj(value, GuestAddress(address + 8 * index as u64))
                .unwrap();
        }
    }

    /// Identity-maps the memory and the APICs' gigabyte, both also at `HIGH`; a code, a data and a
    /// task segment; one gate per vector.
    fn put_tables(&self) {
        const TABLE: u64 = 0x7;
        const PAGE_2M: u64 = 0x87;
        for slot in [0, 273, 511] {
            self.put(PML4 + 8 * slot, &[PDPT | TABLE]);
        }
        for (slot, directory) in [(0, PD_LOW), (3, PD_APIC), (510, PD_LOW)] {
            self.put(PDPT + 8 * slot, &[directory | TABLE]);
        }
        self.put(PD_LOW, &[PAGE_2M]);
        for apic in [0xfec0_0000u64, 0xfee0_0000] {
            const UNCACHED: u64 = 0x18;
            self.put(
                PD_APIC + 8 * (apic >> 21 & 0x1ff),
                &[apic | PAGE_2M | UNCACHED],
            );
        }
        self.put(GDT + 0x10, &[0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
        // SAFETY: both symbols are of the same payload.
        let stubs = unsafe { (&raw const payload_stubs).offset_from(&raw const payload_start) };
        for vector in 0..256 {
            let handler = HIGH + CODE + stubs as u64 + 16 * vector;
            let low = handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
            self.put(IDT + 16 * vector, &[low, handler >> 32]);
        }
    }

    fn put_code(&self) {
        let start = &raw const payload_start;
        // SAFETY: both symbols are of the same payload.
        let len = unsafe { (&raw const payload_end).offset_from(start) };
        // SAFETY: the payload lies between the symbols and is never written.
        let code = unsafe { std::slice::from_raw_parts(start, usize::try_from(len).unwrap()) };
        self.memory.write_slice(code, GuestAddress(CODE)).unwrap();
    }

    fn set_boot_registers(&self) {
        let segment = |selector, type_| kvm_segment {
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        let mut sregs = self.vcpu.get_sregs().unwrap();
        sregs.cs = kvm_segment {
            l: 1,
            ..segment(0x10, 11)
        };
        let data = kvm_segment {
            db: 1,
            ..segment(0x18, 3)
        };
        (sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.tr = kvm_segment {
            base: HIGH + TSS,
            limit: 0x2068,
            s: 0,
            g: 0,
            ..segment(0x40, 11)
        };
        sregs.ldt = kvm_segment {
            unusable: 1,
            ..Default::default()
        };
        (sregs.gdt.base, sregs.gdt.limit) = (HIGH + GDT, 0x7f);
        (sregs.idt.base, sregs.idt.limit) = (HIGH + IDT, 0xfff);
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, PML4, 0x40620, 0xd01);
        self.vcpu.set_sregs(&sregs).unwrap();
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = 7;
        self.vcpu.set_xcrs(&xcrs).unwrap();
        let regs = kvm_regs {
            rip: HIGH + CODE,
            rsp: HIGH + STACK_TOP,
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
    }

    /// Runs the guest up to its next event.
    fn step(&mut self) -> Event {
        loop {
            match self.vcpu.run().unwrap() {
                VcpuExit::IoOut(0x11, _) => return Event::Idle,
                VcpuExit::IoOut(0x12, data) => return Event::Interrupt(data[0]),
                VcpuExit::IoapicEoi(vector) => {
                    self.controller.eoi(vector);
                    self.ends += 1;
                    return Event::Eoi;
                }
                VcpuExit::MmioWrite(address, data) => {
                    self.controller
                        .mmio_write(address - IOREGSEL, data)
                        .unwrap();
                }
                VcpuExit::MmioRead(address, data) => {
                    self.controller.mmio_read(address - IOREGSEL, data);
                }
                exit => panic!("the guest left by {exit:?}"),
            }
        }
    }

    /// Runs the guest until its writes are made.
    pub(crate) fn boot(&mut self) {
        assert_eq!(self.step(), Event::Idle);
    }

    /// Runs the guest to its next interrupt, and says which.
    pub(crate) fn interrupt(&mut self) -> u8 {
        let start = Instant::now();
        loop {
            if let Event::Interrupt(vector) = self.step() {
                return vector;
            }
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(5), "no interrupt for 5 s");
        }
    }

    /// Runs the guest until it idles for good, and says how many interrupts it took until then.
    pub(crate) fn settle(&mut self) -> usize {
        let mut interrupts = 0;
        let mut idle = 0;
        while idle < 100 {
            match self.step() {
                Event::Idle => idle += 1,
                Event::Interrupt(_) => (interrupts, idle) = (interrupts + 1, 0),
                Event::Eoi => idle = 0,
            }
            assert!(interrupts < 100, "the interrupts do not end");
        }
        interrupts
    }

    /// Whether the guest's local APIC knows that `vector` is being served. A KVM of the PVM kind
    /// may end an interrupt by itself as it delivers it; one more is on its way then.
    pub(crate) fn is_in_service(&self, vector: u8) -> bool {
        const IN_SERVICE: usize = 0x100;
        let register = IN_SERVICE + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
        self.vcpu.get_lapic().unwrap().regs[register] as u8 & 1 << (vector % 8) != 0
    }

    /// Runs the guest for a while, in which it may take no interrupt.
    #[track_caller]
    pub(crate) fn expect_quiet(&mut self) {
        assert_eq!(self.settle(), 0, "interrupts out of nothing");
    }

    /// Moves the machine to a new VM, in which `wire` claims the devices' interrupts.
    pub(crate) fn moved<T>(mut self, wire: impl FnOnce(&Controller) -> T) -> (Self, T) {
        self.complete_exit();
        let state: ControllerState = serde_json::from_str(
            &serde_json::to_string(&self.controller.state().unwrap()).unwrap(),
        )
        .unwrap();
        let moved = Self::blank(self.controller.kind());
        let mut bytes = vec![0; MEMORY];
        self.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        moved.memory.write_slice(&bytes, GuestAddress(0)).unwrap();
        moved
            .vcpu
            .set_sregs(&self.vcpu.get_sregs().unwrap())
            .unwrap();
        moved.vcpu.set_xcrs(&self.vcpu.get_xcrs().unwrap()).unwrap();
        moved.vcpu.set_regs(&self.vcpu.get_regs().unwrap()).unwrap();
        moved
            .vcpu
            .set_lapic(&self.vcpu.get_lapic().unwrap())
            .unwrap();
        moved
            .vcpu
            .set_vcpu_events(&self.vcpu.get_vcpu_events().unwrap())
            .unwrap();
        let wired = wire(&moved.controller);
        moved.controller.set_state(&state).unwrap();
        (moved, wired)
    }

    /// Lets KVM finish the instruction that left the guest (KVM API, `KVM_RUN`).
    fn complete_exit(&mut self) {
        self.vcpu.set_kvm_immediate_exit(1);
        self.vcpu
            .run()
            .map(|exit| panic!("left by {exit:?}"))
            .unwrap_err();
        self.vcpu.set_kvm_immediate_exit(0);
    }
}

/// The guest's writes that give `pin` the redirection entry `bits`, the high half first.
pub(crate) fn redirect(pin: u32, bits: u64) -> [(u64, u32); 4] {
    let low = 0x10 + 2 * pin;
    [
        (IOREGSEL, low + 1),
        (IOWIN, (bits >> 32) as u32),
        (IOREGSEL, low),
        (IOWIN, bits as u32),
    ]
}

/// Redirection entry bit: level triggered.
pub(crate) const LEVEL: u64 = 1 << 15;
/// Redirection entry bit: masked.
pub(crate) const MASKED: u64 = 1 << 16;
