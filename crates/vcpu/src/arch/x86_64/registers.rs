use std::fmt;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// The registers in the report of an abnormal exit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Registers {
    /// General registers, instruction pointer and flags.
    pub regs: kvm_regs,
    /// Segments, descriptor tables, control registers and EFER.
    pub sregs: kvm_sregs,
}

impl Registers {
    pub(crate) fn read(vcpu: &VcpuFd) -> errno::Result<Self> {
        Ok(Self {
            regs: vcpu.get_regs()?,
            sregs: vcpu.get_sregs()?,
        })
    }

    /// The linear address of the next instruction. The base of CS counts outside 64-bit mode only
    /// (SDM volume 1, 3.3.4), where the sum wraps at 4 GiB.
    pub fn linear_ip(&self) -> u64 {
        if self.sregs.cs.l != 0 {
            self.regs.rip
        } else {
            self.sregs.cs.base.wrapping_add(self.regs.rip) & 0xffff_ffff
        }
    }

    /// Whether this is the state after INIT, which AMD-V leaves behind on a triple fault.
    fn is_reset(&self) -> bool {
        self.regs.rip == 0xfff0 && self.sregs.cs.base == 0xffff_0000
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (r, s) = (&self.regs, &self.sregs);
        if self.is_reset() {
            writeln!(
                f,
                "(the processor was reset: the registers before are lost)"
            )?;
        }
        writeln!(f, "rip {:016x} rflags {:08x}", r.rip, r.rflags)?;
        let general = [
            [
                ("rax", r.rax),
                ("rbx", r.rbx),
                ("rcx", r.rcx),
                ("rdx", r.rdx),
            ],
            [
                ("rsi", r.rsi),
                ("rdi", r.rdi),
                ("rbp", r.rbp),
                ("rsp", r.rsp),
            ],
            [("r8 ", r.r8), ("r9 ", r.r9), ("r10", r.r10), ("r11", r.r11)],
            [
                ("r12", r.r12),
                ("r13", r.r13),
                ("r14", r.r14),
                ("r15", r.r15),
            ],
            [
                ("cr0", s.cr0),
                ("cr2", s.cr2),
                ("cr3", s.cr3),
                ("cr4", s.cr4),
            ],
        ];
        for line in general {
            let line = line.map(|(name, value)| format!("{name} {value:016x}"));
            writeln!(f, "{}", line.join(" "))?;
        }
        writeln!(
            f,
            "cr8 {:x} efer {:x} apic base {:x}",
            s.cr8, s.efer, s.apic_base
        )?;
        for (name, segment) in [("cs", &s.cs), ("ss", &s.ss), ("ds", &s.ds), ("tr", &s.tr)] {
            writeln!(f, "{name}  {}", Segment(segment))?;
        }
        write!(
            f,
            "gdt {:016x}/{:04x} idt {:016x}/{:04x}",
            s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit
        )
    }
}

struct Segment<'a>(&'a kvm_segment);

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        write!(
            f,
            "{:04x} base {:016x} limit {:08x} type {:x}",
            s.selector, s.base, s.limit, s.type_
        )?;
        write!(f, " dpl {} db {} l {} g {}", s.dpl, s.db, s.l, s.g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cs_base: u64, long: u8, rip: u64) -> Registers {
        let cs = kvm_segment {
            base: cs_base,
            l: long,
            ..Default::default()
        };
        Registers {
            regs: kvm_regs {
                rip,
                ..Default::default()
            },
            sregs: kvm_sregs {
                cs,
                ..Default::default()
            },
        }
    }

    #[test]
    fn the_code_segments_base_counts_outside_64_bit_mode() {
        assert_eq!(at(0x10_0000, 0, 0x20).linear_ip(), 0x10_0020);
        assert_eq!(at(0xffff_fff0, 0, 0x20).linear_ip(), 0x10);
        assert_eq!(
            at(0x10_0000, 1, 0xffff_8000_0000_0020).linear_ip(),
            0xffff_8000_0000_0020
        );
    }

    #[test]
    fn a_reset_processor_is_told_from_a_stopped_one() {
        assert!(
            at(0xffff_0000, 0, 0xfff0)
                .to_string()
                .starts_with("(the processor was reset")
        );
        assert!(
            at(0, 1, 0xfff0)
                .to_string()
                .starts_with("rip 000000000000fff0 ")
        );
    }
}
