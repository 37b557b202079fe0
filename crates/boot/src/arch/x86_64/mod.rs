//! x86-64: the PC's low memory, the Linux 64-bit boot protocol and PVH.

pub mod layout;
mod memory_map;
mod params;
mod place;
pub mod tables;

use std::ops::Range;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};

pub use memory_map::{MemoryKind, MemoryRange, memory_map};

use crate::error::{Error, Result};
use crate::initrd::Initrd;
use crate::kernel::bzimage::ENTRY_64;
use crate::kernel::{Image, Kernel, Protocol};
use params::Params;

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Its command line, without a terminator.
    pub command_line: &'a [u8],
    /// Its initrd.
    pub initrd: Option<&'a Initrd>,
    /// Guest-physical address of the RSDP, which is passed on so that nobody searches for it.
    pub rsdp: Option<u64>,
    /// Guest-physical ranges that the memory map calls reserved, an ECAM window for example.
    pub reserved: &'a [Range<u64>],
    /// How to enter the kernel; by default the first of [`Kernel::protocols`].
    pub protocol: Option<Protocol>,
}

/// The state to start the first vCPU with, and where things went. Addresses are guest-physical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mode: long mode with paging, or 32-bit protected mode without.
    pub protocol: Protocol,
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// The zero page, for RSI, or `hvm_start_info`, for EBX.
    pub arg: u64,
    /// The [`tables`] for long mode: GDTR points to them, CR3 to [`tables::PML4`] within. Zero for
    /// PVH, which needs none.
    pub tables: u64,
    /// What the kernel occupies while it starts.
    pub kernel: Range<u64>,
    /// What the initrd occupies.
    pub initrd: Option<Range<u64>>,
}

impl Boot<'_> {
    /// Places kernel, initrd, command line, boot parameters and tables into guest memory.
    ///
    /// Guest memory must be zero where the kernel goes, as fresh memory is: zeroes are not
    /// written. ACPI tables are not written here, see [`crate::acpi`].
    ///
    /// # Errors
    ///
    /// [`Error::LowMemory`], [`Error::KernelDoesNotFit`], [`Error::InitrdDoesNotFit`],
    /// [`Error::CommandLineTooLong`], [`Error::CommandLineZero`], [`Error::MemoryMapTooLong`] and
    /// [`Error::Protocol`]; those of a file lie within [`Error::Kernel`] or [`Error::Initrd`].
    pub fn load<M: GuestMemoryBackend>(&self, mem: &M) -> Result<Entry> {
        let protocol = self.protocol.unwrap_or(self.kernel.protocols()[0]);
        if !self.kernel.protocols().contains(&protocol) {
            return Err(self.in_kernel(Error::Protocol {
                protocol: protocol.name(),
            }));
        }
        self.check_command_line()?;
        check_low_memory(mem)?;
        let kernel = place::load_kernel(self.kernel, mem).map_err(|e| self.in_kernel(e))?;
        let map = memory_map(mem, self.reserved);
        let limit = self.kernel.limits().initrd_end;
        let initrd = match self.initrd {
            Some(initrd) => Some(place::load_initrd(initrd, &kernel, limit, &map, mem)?),
            None => None,
        };
        self.write_command_line(mem)?;
        let params = Params {
            map: &map,
            initrd: initrd.as_ref(),
            rsdp: self.rsdp,
        };
        self.enter(protocol, params, kernel, mem)
    }

    fn check_command_line(&self) -> Result<()> {
        let len = self.command_line.len();
        let max = (self.kernel.limits().cmdline as usize).min(layout::COMMAND_LINE_SIZE - 1);
        if len > max {
            return Err(Error::CommandLineTooLong { len, max });
        }
        match self.command_line.iter().position(|&b| b == 0) {
            Some(at) => Err(Error::CommandLineZero { at }),
            None => Ok(()),
        }
    }

    fn write_command_line<M: GuestMemoryBackend>(&self, mem: &M) -> Result<()> {
        let text = [self.command_line, &[0]].concat();
        write(mem, "the command line", layout::COMMAND_LINE, &text)
    }

    /// Writes what the protocol wants to find in memory, and says how to start.
    fn enter<M: GuestMemoryBackend>(
        &self,
        protocol: Protocol,
        params: Params<'_>,
        kernel: Range<u64>,
        mem: &M,
    ) -> Result<Entry> {
        let (rip, arg, tables) = match (protocol, &self.kernel.image) {
            (Protocol::Linux64, image) => {
                write(
                    mem,
                    "the zero page",
                    layout::ZERO_PAGE,
                    &params.zero_page(image)?,
                )?;
                tables::write(mem, layout::TABLES)?;
                let rip = match image {
                    Image::BzImage(image) => Some(image.load_address + ENTRY_64),
                    Image::Elf(elf) => elf.linux_entry,
                };
                (rip, layout::ZERO_PAGE, layout::TABLES)
            }
            (Protocol::Pvh, Image::Elf(elf)) => {
                write(
                    mem,
                    "the PVH start info",
                    layout::START_INFO,
                    &params.start_info()?,
                )?;
                (elf.pvh_entry.map(u64::from), layout::START_INFO, 0)
            }
            (Protocol::Pvh, Image::BzImage(_)) => (None, 0, 0),
        };
        let no_entry = Error::Protocol {
            protocol: protocol.name(),
        };
        let rip = rip.ok_or_else(|| self.in_kernel(no_entry))?;
        let initrd = params.initrd.cloned();
        Ok(Entry {
            protocol,
            rip,
            rsp: layout::STACK_TOP,
            arg,
            tables,
            kernel,
            initrd,
        })
    }

    fn in_kernel(&self, source: Error) -> Error {
        Error::Kernel {
            path: self.kernel.path().to_owned(),
            source: Box::new(source),
        }
    }
}

fn check_low_memory<M: GuestMemoryBackend>(mem: &M) -> Result<()> {
    let need = layout::HIGH_RAM;
    match memory_map::ram(mem).first() {
        Some(ram) if ram.start == 0 && ram.end > need => Ok(()),
        _ => Err(Error::LowMemory { need }),
    }
}

fn write<M: GuestMemoryBackend>(
    mem: &M,
    what: &'static str,
    addr: u64,
    bytes: &[u8],
) -> Result<()> {
    mem.write_slice(bytes, GuestAddress(addr))
        .map_err(|source| Error::GuestMemory { what, addr, source })
}
