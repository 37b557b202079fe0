//! Kernel images made from parts, for tests that have no real kernel at hand.

use std::path::Path;

use crate::bytes::put;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::kernel::bzimage::{BOOT_FLAG, HEADER_MAGIC};
use crate::kernel::dense::{ehdr, phdr, push_note};
use crate::kernel::elf::{EHDR_SIZE, PHDR_SIZE, PT_LOAD, PT_NOTE, PVH_NOTE, Segment};
use crate::source::Source;

/// Where the kernel map of x86-64 Linux begins.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// An ELF kernel.
#[derive(Clone, Debug)]
pub struct ElfKernel {
    /// Segments: guest-physical address, bytes, and the size in memory (at least the bytes').
    pub segments: Vec<(u64, Vec<u8>, u64)>,
    /// The ELF header's entry.
    pub entry: u64,
    /// The PVH entry of the Xen note.
    pub pvh_entry: Option<u32>,
    /// Whether the segments are linked into Linux's kernel map.
    pub vmlinux: bool,
}

impl ElfKernel {
    /// A vmlinux with a PVH entry: 16 pages of code and data at 16 MiB, of which the middle eight
    /// are zero, then as many of bss.
    pub fn small() -> Self {
        const PAGE: usize = 4096;
        let mut bytes = vec![0x90; 16 * PAGE];
        bytes[4 * PAGE..12 * PAGE].fill(0);
        Self {
            segments: vec![(16 << 20, bytes, 32 * PAGE as u64)],
            entry: 16 << 20,
            pvh_entry: Some((16 << 20) + 0x100),
            vmlinux: true,
        }
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        if let Some(entry) = self.pvh_entry {
            push_note(&mut notes, PVH_NOTE, &entry.to_le_bytes());
        }
        let headers = self.segments.len() + 1;
        let mut file = ehdr(self.entry, headers as u16).to_vec();
        let mut data = Vec::new();
        let mut data_offset = (EHDR_SIZE + headers * PHDR_SIZE) as u64;
        let mut push = |file: &mut Vec<u8>, kind, gpa, bytes: &[u8], mem_len| {
            let vaddr = if self.vmlinux {
                KERNEL_MAP.wrapping_add(gpa)
            } else {
                gpa
            };
            let (offset, file_len) = (data_offset, bytes.len() as u64);
            let segment = Segment {
                gpa,
                vaddr,
                offset,
                file_len,
                mem_len,
            };
            file.extend_from_slice(&phdr(kind, &segment, 4));
            data.extend_from_slice(bytes);
            data_offset += file_len;
        };
        for (gpa, bytes, mem_len) in &self.segments {
            push(&mut file, PT_LOAD, *gpa, bytes, *mem_len);
        }
        push(&mut file, PT_NOTE, 0, &notes, notes.len() as u64);
        file.extend_from_slice(&data);
        file
    }
}

/// A bzImage.
#[derive(Clone, Debug)]
pub struct BzImageKernel {
    /// The compressed kernel, with its unpacked size behind it.
    pub payload: Vec<u8>,
    /// Bytes that it needs to start in.
    pub init_size: u32,
    /// Where it wants to be loaded.
    pub pref_address: u64,
    /// Longest command line.
    pub cmdline_size: u32,
    /// Last address for an initrd.
    pub initrd_addr_max: u32,
    /// Bit 0 says that there is a 64-bit entry.
    pub xloadflags: u16,
    /// Protocol version, major in the high byte.
    pub protocol: u16,
    /// The version string.
    pub version: String,
}

impl BzImageKernel {
    /// A kernel of protocol 2.15 with a given payload.
    pub fn with_payload(payload: Vec<u8>) -> Self {
        Self {
            payload,
            init_size: 4 << 20,
            pref_address: 16 << 20,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            xloadflags: 1,
            protocol: 0x20f,
            version: "6.1.0-test".to_owned(),
        }
    }

    /// [`ElfKernel::small`], compressed by LZ4.
    pub fn small() -> Self {
        let elf = ElfKernel::small().to_bytes();
        Self::with_payload(with_size(lz4_stored(&elf), elf.len()))
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        const SETUP_SECTS: u8 = 3;
        const KERNEL: usize = (SETUP_SECTS as usize + 1) * 512;
        const PAYLOAD: usize = 0x400;
        const VERSION: usize = 0x600;

        let len = (PAYLOAD + self.payload.len()).next_multiple_of(16);
        let mut file = vec![0; KERNEL + len];
        let header: [(usize, &[u8]); 15] = [
            (0x1f1, &[SETUP_SECTS]),
            (0x1f4, &((len / 16) as u32).to_le_bytes()),
            (0x1fe, &BOOT_FLAG.to_le_bytes()),
            // A short jump over the header: it ends at 0x202 + 0x6a.
            (0x200, &[0xeb, 0x6a]),
            (0x202, HEADER_MAGIC),
            (0x206, &self.protocol.to_le_bytes()),
            (0x20e, &((VERSION - 0x200) as u16).to_le_bytes()),
            (0x22c, &self.initrd_addr_max.to_le_bytes()),
            (0x234, &[1]),
            (0x236, &self.xloadflags.to_le_bytes()),
            (0x238, &self.cmdline_size.to_le_bytes()),
            (0x248, &(PAYLOAD as u32).to_le_bytes()),
            (0x24c, &(self.payload.len() as u32).to_le_bytes()),
            (0x258, &self.pref_address.to_le_bytes()),
            (0x260, &self.init_size.to_le_bytes()),
        ];
        for (offset, value) in header {
            put(&mut file, offset, value);
        }
        put(&mut file, VERSION, self.version.as_bytes());
        put(&mut file, KERNEL + PAYLOAD, &self.payload);
        file
    }
}

/// Opens a kernel that lies in memory, as [`Kernel::open`] opens a file.
///
/// # Errors
///
/// Those of [`Kernel::open`].
pub fn open_bytes(bytes: Vec<u8>) -> Result<Kernel> {
    Kernel::from_source(Path::new("memory"), Source::Memory(bytes))
}

/// A payload with the unpacked size behind it, as the kernel's build puts it there for all methods
/// but gzip.
pub fn with_size(mut payload: Vec<u8>, unpacked: usize) -> Vec<u8> {
    payload.extend_from_slice(&(unpacked as u32).to_le_bytes());
    payload
}

/// The legacy LZ4 frame around bytes that are stored as literals.
pub fn lz4_stored(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 8 << 20;
    let mut file = 0x184c_2102_u32.to_le_bytes().to_vec();
    for chunk in bytes.chunks(BLOCK) {
        let mut block = vec![];
        let long = chunk.len().checked_sub(15);
        block.push((chunk.len().min(15) as u8) << 4);
        if let Some(rest) = long {
            block.resize(block.len() + rest / 255, 255);
            block.push((rest % 255) as u8);
        }
        block.extend_from_slice(chunk);
        file.extend_from_slice(&(block.len() as u32).to_le_bytes());
        file.extend_from_slice(&block);
    }
    file
}
