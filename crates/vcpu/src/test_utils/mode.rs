//! Processor modes for payloads, set up so that they also run on a PVM host: there ring 0 is
//! emulated one instruction at a time, and ring 3 runs natively.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::{CODE_ADDR, TestVm};
use crate::Vcpu;
use crate::arch::{Protocol, boot_sregs};

/// The stack grows down from here to the tables.
pub const STACK_TOP: u64 = CODE_ADDR;

/// All of memory up to 1 GiB is mapped here too in 64-bit mode.
pub const HIGH: u64 = 0xffff_ffff_8000_0000;

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
/// 0x68 bytes, the I/O permission bitmap and its end mark.
const TSS: u64 = 0x3000;
const TSS_LIMIT: u32 = 0x2068;
const PML4: u64 = 0x6000;
const PDPT_LOW: u64 = 0x7000;
const PDPT_HIGH: u64 = 0x8000;
const PD: u64 = 0x9000;

const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x40;

/// The mode in which a payload starts.
#[derive(Debug, Clone)]
pub enum Mode {
    /// 16 bits, all segments at 0, no interrupts.
    Real,
    /// 32 bits, flat segments, no paging, no interrupts.
    Protected,
    /// 64 bits.
    Long(LongMode),
}

/// 64 bits: memory up to 1 GiB at 0 and at [`HIGH`], a stack, and interrupts enabled by ring 3 only.
#[derive(Debug, Clone, Default)]
pub struct LongMode {
    /// Start in ring 3.
    pub user: bool,
    /// Interrupt vectors and the guest-physical addresses of their handlers, which run in ring 0.
    pub handlers: Vec<(u8, u64)>,
}

impl Mode {
    /// Ring 0, 64 bits, no interrupts.
    pub fn long() -> Self {
        Self::Long(LongMode::default())
    }

    /// Puts `vcpu` at [`CODE_ADDR`] in this mode.
    pub(super) fn enter(&self, vm: &TestVm, vcpu: &Vcpu) {
        let reset = vcpu.fd().get_sregs().expect("KVM_GET_SREGS");
        let start = kvm_regs {
            rip: CODE_ADDR,
            rsp: STACK_TOP,
            rflags: 2,
            ..Default::default()
        };
        let (sregs, regs) = match self {
            Self::Real => {
                // The instruction pointer has 16 bits.
                let cs = kvm_segment {
                    base: CODE_ADDR,
                    selector: 0x1000,
                    ..reset.cs
                };
                (
                    kvm_sregs { cs, ..reset },
                    kvm_regs {
                        rip: 0,
                        rsp: 0xfffe,
                        ..start
                    },
                )
            }
            Self::Protected => (boot_sregs(&reset, Protocol::Pvh, 0), start),
            Self::Long(mode) => (mode.enter(vm, vcpu, &reset), mode.regs(start)),
        };
        vcpu.fd().set_sregs(&sregs).expect("KVM_SET_SREGS");
        vcpu.fd().set_regs(&regs).expect("KVM_SET_REGS");
    }
}

impl LongMode {
    fn regs(&self, start: kvm_regs) -> kvm_regs {
        // IOPL 3 and interrupts enabled, as a kernel would enter a program.
        if self.user {
            kvm_regs {
                rflags: 0x3202,
                ..start
            }
        } else {
            start
        }
    }

    fn enter(&self, vm: &TestVm, vcpu: &Vcpu, reset: &kvm_sregs) -> kvm_sregs {
        self.write_page_tables(vm);
        self.write_descriptors(vm);
        if let Ok(mut xcrs) = vcpu.fd().get_xcrs()
            && xcrs.nr_xcrs > 0
        {
            xcrs.xcrs[0].value = 7;
            vcpu.fd().set_xcrs(&xcrs).expect("KVM_SET_XCRS");
        }
        let (code, data) = if self.user {
            (USER_CODE, USER_DATA)
        } else {
            (KERNEL_CODE, KERNEL_DATA)
        };
        let segment = |selector: u16, type_, long| kvm_segment {
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            dpl: (selector & 3) as u8,
            db: 1 - long,
            s: 1,
            l: long,
            g: 1,
            ..Default::default()
        };
        let data = segment(data, 3, 0);
        let tr = kvm_segment {
            base: HIGH + TSS,
            limit: TSS_LIMIT,
            selector: TASK,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        let table = |base, limit| kvm_dtable {
            base: HIGH + base,
            limit,
            ..Default::default()
        };
        kvm_sregs {
            cs: segment(code, 11, 1),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr,
            ldt: kvm_segment {
                unusable: 1,
                ..Default::default()
            },
            gdt: table(GDT, 0x4f),
            idt: table(IDT, 0xfff),
            cr0: 0x8005_0033,
            cr3: PML4,
            cr4: 0x4_0620,
            efer: 0xd01,
            ..*reset
        }
    }

    /// Every level is open to ring 3: PVM runs both rings on one set of tables.
    fn write_page_tables(&self, vm: &TestVm) {
        const OPEN: u64 = 0b111;
        const LARGE: u64 = 1 << 7;
        let entry = |table: u64, index: u64, to: u64| {
            vm.write(table + 8 * index, &(to | OPEN).to_le_bytes());
        };
        entry(PML4, 0, PDPT_LOW);
        // 0xffff_8880_0000_0000, where Linux and PVM expect all memory.
        entry(PML4, 273, PDPT_LOW);
        entry(PML4, 511, PDPT_HIGH);
        entry(PDPT_LOW, 0, PD);
        entry(PDPT_HIGH, 510, PD);
        (0..512).for_each(|i| entry(PD, i, i << 21 | LARGE));
    }

    fn write_descriptors(&self, vm: &TestVm) {
        let set = |selector: u16, descriptor: u64| {
            vm.write(GDT + u64::from(selector & !7), &descriptor.to_le_bytes());
        };
        let tss = HIGH + TSS;
        set(KERNEL_CODE, 0x00af_9b00_0000_ffff);
        set(KERNEL_DATA, 0x00cf_9300_0000_ffff);
        set(USER_DATA, 0x00cf_f300_0000_ffff);
        set(USER_CODE, 0x00af_fb00_0000_ffff);
        let base = (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56;
        set(TASK, 0x0000_8b00_0000_0000 | base | u64::from(TSS_LIMIT));
        set(TASK + 8, tss >> 32);
        // RSP0, and where the I/O permission bitmap starts; its last byte is the end mark.
        vm.write(TSS + 4, &(HIGH + STACK_TOP).to_le_bytes());
        vm.write(TSS + 0x66, &0x68u16.to_le_bytes());
        vm.write(TSS + u64::from(TSS_LIMIT), &[0xff]);
        for &(vector, handler) in &self.handlers {
            let at = HIGH + handler;
            let low = at & 0xffff
                | u64::from(KERNEL_CODE) << 16
                | 0x8e00 << 32
                | (at >> 16 & 0xffff) << 48;
            let gate = IDT + 16 * u64::from(vector);
            vm.write(gate, &low.to_le_bytes());
            vm.write(gate + 8, &(at >> 32).to_le_bytes());
        }
    }
}
