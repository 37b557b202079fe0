//! The state in which a guest's first vCPU starts: registers, and the tables that they refer to.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};

use crate::error::Result;
use crate::vcpu::Vcpu;

/// How a kernel wants to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The 64-bit entry of Linux' boot protocol (Documentation/arch/x86/boot.rst): long mode,
    /// identity paging, RSI points to the zero page.
    Linux64,
    /// Xen's PVH entry (docs/misc/pvh.pandoc): 32-bit protected mode, no paging, EBX points to
    /// the start info.
    Pvh,
}

/// Where and how the guest's first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// How.
    pub protocol: Protocol,
    /// Guest-physical address of the first instruction.
    pub rip: u64,
    /// Guest-physical address of the zero page or of the start info.
    pub arg: u64,
}

/// A place for [`BootTables`] that no other user of low memory claims: below the zero page's usual
/// one, above the real-mode vectors and the BIOS data area.
pub const BOOT_TABLES_ADDR: u64 = 0x1000;

const PAGE: usize = 4096;

/// Selectors that Linux' 64-bit boot protocol asks for: __BOOT_CS and __BOOT_DS.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// The descriptor table and the page tables of [`Protocol::Linux64`], to be written to guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTables {
    /// Guest-physical address for `bytes`.
    pub addr: u64,
    /// The GDT, then the PML4, a page directory pointer table and a page directory.
    pub bytes: Vec<u8>,
}

impl BootTables {
    /// Tables for the page-aligned guest-physical address `addr`, which map the first GiB to
    /// itself by pages of 2 MiB. They are 16 KiB long.
    ///
    /// The protocol wants the kernel, the zero page and the command line mapped; the kernel maps
    /// all else by itself.
    pub fn new(addr: u64) -> Self {
        const PRESENT_WRITABLE: u64 = 0b11;
        const LARGE: u64 = 1 << 7;
        let mut bytes = Vec::with_capacity(4 * PAGE);
        let mut page = |entries: &mut dyn Iterator<Item = u64>| {
            let end = bytes.len() + PAGE;
            bytes.extend(entries.flat_map(u64::to_le_bytes));
            bytes.resize(end, 0);
        };
        page(&mut gdt().into_iter());
        page(&mut [pdpt_of(addr) | PRESENT_WRITABLE].into_iter());
        page(&mut [pd_of(addr) | PRESENT_WRITABLE].into_iter());
        page(&mut (0..512).map(|i| i << 21 | LARGE | PRESENT_WRITABLE));
        Self { addr, bytes }
    }
}

fn pml4_of(tables: u64) -> u64 {
    tables + PAGE as u64
}

fn pdpt_of(tables: u64) -> u64 {
    tables + 2 * PAGE as u64
}

fn pd_of(tables: u64) -> u64 {
    tables + 3 * PAGE as u64
}

/// Segment descriptors (SDM volume 3, 3.4.5) for the selectors above.
fn gdt() -> [u64; 5] {
    let descriptor = |s: kvm_segment| {
        let pages = u64::from(s.limit >> if s.g != 0 { 12 } else { 0 });
        let bits = |value: u8, at: u32| u64::from(value) << at;
        (pages & 0xffff)
            | ((pages >> 16) << 48)
            | bits(s.type_, 40)
            | bits(s.s, 44)
            | bits(s.present, 47)
            | bits(s.l, 53)
            | bits(s.db, 54)
            | bits(s.g, 55)
    };
    [
        0,
        0,
        descriptor(code64()),
        descriptor(flat(DATA, 3)),
        descriptor(task()),
    ]
}

/// A flat 32-bit segment of 4 GiB: type 11 is code, execute and read; 3 is data, read and write.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn code64() -> kvm_segment {
    kvm_segment {
        db: 0,
        l: 1,
        ..flat(CODE, 11)
    }
}

/// A busy task-state segment, which VT-x demands in TR (SDM volume 3, 27.3.1.2).
fn task() -> kvm_segment {
    kvm_segment {
        limit: 0x67,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    }
}

/// The general registers at `entry`.
pub fn boot_regs(entry: &EntryPoint) -> kvm_regs {
    let regs = kvm_regs {
        rip: entry.rip,
        rflags: 2,
        ..Default::default()
    };
    match entry.protocol {
        Protocol::Linux64 => kvm_regs {
            rsi: entry.arg,
            ..regs
        },
        Protocol::Pvh => kvm_regs {
            rbx: entry.arg,
            ..regs
        },
    }
}

/// The system registers at an entry by `protocol`, made from those after reset, with
/// [`BootTables`] at `tables`.
pub fn boot_sregs(reset: &kvm_sregs, protocol: Protocol, tables: u64) -> kvm_sregs {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME: u64 = 1 << 8;
    const EFER_LMA: u64 = 1 << 10;
    let data = flat(DATA, 3);
    let protected = kvm_sregs {
        cs: flat(CODE, 11),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task(),
        gdt: kvm_dtable::default(),
        idt: kvm_dtable::default(),
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..*reset
    };
    match protocol {
        Protocol::Pvh => protected,
        Protocol::Linux64 => kvm_sregs {
            cs: code64(),
            gdt: kvm_dtable {
                base: tables,
                limit: 5 * 8 - 1,
                ..Default::default()
            },
            cr0: protected.cr0 | CR0_PG,
            cr3: pml4_of(tables),
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..protected
        },
    }
}

impl Vcpu {
    /// Puts the first vCPU where `entry` says. For [`Protocol::Linux64`], the [`BootTables`] for
    /// the address `tables` must be in guest memory before it runs.
    ///
    /// Other vCPUs need [`init_msrs`](Self::init_msrs) only: they start by INIT and SIPI.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`](crate::Error::Vcpu) when KVM refuses, and
    /// [`Error::MsrWrite`](crate::Error::MsrWrite).
    pub fn boot(&mut self, entry: &EntryPoint, tables: u64) -> Result<()> {
        // What FNINIT and a power-up leave (SDM volume 3, table 10-1).
        let fpu = kvm_fpu {
            fcw: 0x37f,
            mxcsr: 0x1f80,
            ..Default::default()
        };
        let reset = self.fd.get_sregs().map_err(self.failed("KVM_GET_SREGS"))?;
        let sregs = boot_sregs(&reset, entry.protocol, tables);
        self.fd
            .set_sregs(&sregs)
            .map_err(self.failed("KVM_SET_SREGS"))?;
        self.fd
            .set_regs(&boot_regs(entry))
            .map_err(self.failed("KVM_SET_REGS"))?;
        self.fd.set_fpu(&fpu).map_err(self.failed("KVM_SET_FPU"))?;
        self.init_msrs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_a_flat_model() {
        // The values that Linux' own startup code uses for the same segments.
        assert_eq!(gdt()[2], 0x00af_9b00_0000_ffff);
        assert_eq!(gdt()[3], 0x00cf_9300_0000_ffff);
        assert_eq!(gdt()[4], 0x0000_8b00_0000_0067);
    }

    #[test]
    fn page_tables_map_the_first_gib_to_itself() {
        let tables = BootTables::new(0x5000);
        assert_eq!(tables.bytes.len(), 4 * PAGE);
        let entry = |table: u64, index: usize| {
            let at = (table - 0x5000) as usize + 8 * index;
            u64::from_le_bytes(tables.bytes[at..at + 8].try_into().unwrap())
        };
        let sregs = boot_sregs(&kvm_sregs::default(), Protocol::Linux64, 0x5000);
        assert_eq!(entry(sregs.cr3, 0), 0x7003);
        assert_eq!(entry(sregs.cr3, 1), 0);
        assert_eq!(entry(0x7000, 0), 0x8003);
        assert_eq!(entry(0x8000, 0), 0x83);
        assert_eq!(entry(0x8000, 511), (511 << 21) | 0x83);
        assert_eq!(sregs.gdt.base, 0x5000);
    }

    #[test]
    fn each_protocol_gets_its_argument_and_its_mode() {
        let entry = EntryPoint {
            protocol: Protocol::Linux64,
            rip: 0x100_0200,
            arg: 0x7000,
        };
        let regs = boot_regs(&entry);
        assert_eq!(
            (regs.rip, regs.rsi, regs.rbx, regs.rflags),
            (0x100_0200, 0x7000, 0, 2)
        );
        let regs = boot_regs(&EntryPoint {
            protocol: Protocol::Pvh,
            ..entry
        });
        assert_eq!(
            (regs.rip, regs.rsi, regs.rbx, regs.rflags),
            (0x100_0200, 0, 0x7000, 2)
        );

        let reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        let long = boot_sregs(&reset, Protocol::Linux64, 0x1000);
        assert_eq!(
            (long.cr0, long.cr4, long.efer, long.cs.l),
            (0x8000_0011, 0x20, 0x500, 1)
        );
        let flat = boot_sregs(&reset, Protocol::Pvh, 0x1000);
        assert_eq!(
            (flat.cr0, flat.cr4, flat.efer, flat.cs.l, flat.cs.db),
            (0x11, 0, 0, 0, 1)
        );
        assert_eq!(
            (long.apic_base, flat.apic_base),
            (reset.apic_base, reset.apic_base)
        );
    }
}
