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

/// Offset of the PML4 from the descriptor table.
const PML4: u64 = 0x1000;

/// Selectors that Linux' 64-bit boot protocol asks for: __BOOT_CS and __BOOT_DS.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

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

/// The system registers at an entry by `protocol`, made from those after reset.
///
/// For [`Protocol::Linux64`], a descriptor table lies at the guest-physical address `tables`, with
/// the flat code, data and task segments at the selectors 0x10, 0x18 and 0x20, and a page behind it
/// a PML4 that maps all that the protocol wants mapped. They are not looked at here.
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
            cr3: tables + PML4,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..protected
        },
    }
}

impl Vcpu {
    /// Puts the first vCPU where `entry` says. For [`Protocol::Linux64`], the tables that
    /// [`boot_sregs`] describes must be in guest memory at `tables` before it runs.
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
