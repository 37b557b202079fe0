//! ELF64 kernels: program headers, and the PVH entry in their notes.
//!
//! Structure layouts are those of the System V ABI, chapter 4 and 5; the note is that of Xen's
//! `public/elfnote.h`.

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::kernel::dense::{self, Mark};
use crate::source::Source;

pub(crate) const MAGIC: &[u8; 4] = b"\x7fELF";
pub(crate) const EHDR_SIZE: usize = 64;
pub(crate) const PHDR_SIZE: usize = 56;
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const ET_EXEC: u16 = 2;
/// Owner and type of the note that holds the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY).
pub(crate) const PVH_NOTE: (&[u8], u32) = (b"Xen\0", 18);

const MAX_PROGRAM_HEADERS: u16 = 512;
const MAX_NOTE_SEGMENTS: usize = 16;
const MAX_NOTES_SIZE: u64 = 64 << 10;
/// More bytes than any kernel has; a file whose segments repeat each other stops here.
const MAX_LOAD_SIZE: u64 = 512 << 20;
/// Linux links x86-64 kernels into the top two GiB (its memory map: `__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// An x86-64 ELF kernel, checked against its file.
#[derive(Debug)]
pub(crate) struct Elf {
    /// Physical address of the 64-bit entry, for a Linux vmlinux.
    pub(crate) linux_entry: Option<u64>,
    /// Physical address of the PVH entry.
    pub(crate) pvh_entry: Option<u32>,
    /// What to load; never empty.
    pub(crate) segments: Vec<Segment>,
    /// Present when the file is of the dense form.
    pub(crate) mark: Option<Mark>,
}

/// One PT_LOAD with a memory size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Guest-physical address.
    pub(crate) gpa: u64,
    /// Virtual address that the kernel links it to.
    pub(crate) vaddr: u64,
    /// Offset of its bytes in the file.
    pub(crate) offset: u64,
    /// How many bytes the file holds.
    pub(crate) file_len: u64,
    /// How many bytes it occupies in memory, at least `file_len`; the rest is zero.
    pub(crate) mem_len: u64,
}

impl Segment {
    /// First address after it. The parser has checked the sum.
    pub(crate) fn end(&self) -> u64 {
        self.gpa + self.mem_len
    }

    fn contains(&self, gpa: u64) -> bool {
        (self.gpa..self.end()).contains(&gpa)
    }
}

impl Elf {
    /// Reads the headers of a file that begins with [`MAGIC`].
    pub(crate) fn parse(source: &Source) -> Result<Self> {
        let mut ehdr = [0; EHDR_SIZE];
        source.read_at("the ELF header", 0, &mut ehdr)?;
        check_machine(&ehdr)?;
        let headers = program_headers(source, &ehdr)?;

        let mut segments = Vec::new();
        let mut notes = Notes::default();
        let (mut loaded, mut note_segments) = (0_u64, 0);
        for header in &headers {
            match header.kind {
                PT_LOAD if header.memsz > 0 => {
                    let segment = header.segment(source)?;
                    loaded = loaded.saturating_add(segment.file_len);
                    segments.push(segment);
                }
                PT_NOTE if note_segments < MAX_NOTE_SEGMENTS => {
                    note_segments += 1;
                    notes.read(source, header)?;
                }
                _ => {}
            }
        }
        if loaded > MAX_LOAD_SIZE {
            let what = "sum of segment sizes";
            return Err(Error::OverLimit {
                what,
                value: loaded,
                max: MAX_LOAD_SIZE,
            });
        }
        let entry = u64_at(&ehdr, 24).unwrap_or_default();
        let linux_entry = segments
            .iter()
            .any(|s| s.vaddr >= KERNEL_MAP && s.contains(entry))
            .then_some(entry);
        if linux_entry.is_none() && notes.pvh_entry.is_none() {
            return Err(Error::NoEntry);
        }
        if let Some(entry) = notes.pvh_entry
            && !segments.iter().any(|s| s.contains(entry.into()))
        {
            return Err(Error::Malformed {
                what: "the PVH entry lies in no segment",
            });
        }
        Ok(Self {
            linux_entry,
            pvh_entry: notes.pvh_entry,
            segments,
            mark: notes.mark,
        })
    }

    /// First guest-physical address that is occupied.
    pub(crate) fn start(&self) -> u64 {
        self.segments.iter().map(|s| s.gpa).min().unwrap_or(0)
    }

    /// First guest-physical address after all segments.
    pub(crate) fn end(&self) -> u64 {
        self.segments.iter().map(Segment::end).max().unwrap_or(0)
    }
}

/// Refuses all but little-endian x86-64 executables.
fn check_machine(ehdr: &[u8; EHDR_SIZE]) -> Result<()> {
    const CLASS_32: u8 = 1;
    const BIG_ENDIAN: u8 = 2;
    const EM_386: u16 = 3;
    const ET_REL: u16 = 1;

    let field = |offset| {
        let bytes = [ehdr[offset], ehdr[offset + 1]];
        if ehdr[5] == BIG_ENDIAN {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    };
    let (kind, machine) = (field(16), field(18));
    match (ehdr[4], machine) {
        (CLASS_32, EM_386 | EM_X86_64) => {
            return Err(Error::ThirtyTwoBit {
                what: "a 32-bit ELF file",
            });
        }
        (_, EM_X86_64) => {}
        _ => {
            return Err(Error::WrongArch {
                arch: machine_name(machine),
            });
        }
    }
    if kind == ET_REL {
        let what = "an ELF object file";
        return Err(Error::NotAKernel {
            what,
            remedy: "use the linked vmlinux or the bzImage",
        });
    }
    Ok(())
}

/// Names an `e_machine` (System V ABI registry).
fn machine_name(machine: u16) -> &'static str {
    match machine {
        2 | 43 => "SPARC",
        3 => "32-bit x86",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "s390",
        40 => "32-bit Arm",
        50 => "IA-64",
        183 => "aarch64",
        243 => "RISC-V",
        247 => "BPF",
        258 => "LoongArch",
        _ => "an unknown processor",
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

impl ProgramHeader {
    fn parse(raw: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(raw, 0)?,
            offset: u64_at(raw, 8)?,
            vaddr: u64_at(raw, 16)?,
            paddr: u64_at(raw, 24)?,
            filesz: u64_at(raw, 32)?,
            memsz: u64_at(raw, 40)?,
            align: u64_at(raw, 48)?,
        })
    }

    fn segment(&self, source: &Source) -> Result<Segment> {
        source.check_range("an ELF segment", self.offset, self.filesz)?;
        if self.filesz > self.memsz {
            return Err(Error::Malformed {
                what: "a segment is larger in the file than in memory",
            });
        }
        if self.paddr.checked_add(self.memsz).is_none() {
            return Err(Error::Malformed {
                what: "a segment ends beyond the address space",
            });
        }
        Ok(Segment {
            gpa: self.paddr,
            vaddr: self.vaddr,
            offset: self.offset,
            file_len: self.filesz,
            mem_len: self.memsz,
        })
    }
}

fn program_headers(source: &Source, ehdr: &[u8; EHDR_SIZE]) -> Result<Vec<ProgramHeader>> {
    let offset = u64_at(ehdr, 32).unwrap_or_default();
    let entry_size = u16_at(ehdr, 54).unwrap_or_default();
    let count = u16_at(ehdr, 56).unwrap_or_default();
    if count == 0 {
        return Err(Error::Malformed {
            what: "it has no program headers",
        });
    }
    if usize::from(entry_size) != PHDR_SIZE {
        return Err(Error::Malformed {
            what: "its program headers have an unknown size",
        });
    }
    if count > MAX_PROGRAM_HEADERS {
        let (value, max) = (count.into(), MAX_PROGRAM_HEADERS.into());
        return Err(Error::OverLimit {
            what: "number of program headers",
            value,
            max,
        });
    }
    let len = u64::from(count) * PHDR_SIZE as u64;
    let table = source.read_vec("the table of ELF program headers", offset, len, len)?;
    Ok(table
        .chunks_exact(PHDR_SIZE)
        .filter_map(ProgramHeader::parse)
        .collect())
}

/// What the notes say that matters here.
#[derive(Default)]
struct Notes {
    pvh_entry: Option<u32>,
    mark: Option<Mark>,
}

impl Notes {
    fn read(&mut self, source: &Source, header: &ProgramHeader) -> Result<()> {
        let bytes = source.read_vec(
            "the ELF notes",
            header.offset,
            header.filesz,
            MAX_NOTES_SIZE,
        )?;
        let align = if header.align == 8 { 8 } else { 4 };
        for (name, kind, desc) in (NoteIter {
            rest: &bytes,
            align,
        }) {
            if (name, kind) == PVH_NOTE {
                self.pvh_entry = u32_at(desc, 0);
            } else if (name, kind) == dense::NOTE {
                self.mark = Mark::parse(desc);
            }
        }
        Ok(())
    }
}

/// Walks notes until the bytes end or make no sense.
struct NoteIter<'a> {
    rest: &'a [u8],
    align: usize,
}

impl<'a> Iterator for NoteIter<'a> {
    /// Name with its terminator, type, descriptor.
    type Item = (&'a [u8], u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name_len = u32_at(self.rest, 0)? as usize;
        let desc_len = u32_at(self.rest, 4)? as usize;
        let kind = u32_at(self.rest, 8)?;
        let desc_start = 12_usize
            .checked_add(name_len)?
            .checked_next_multiple_of(self.align)?;
        let desc_end = desc_start.checked_add(desc_len)?;
        let name = self.rest.get(12..12_usize.checked_add(name_len)?)?;
        let desc = self.rest.get(desc_start..desc_end)?;
        let next = desc_end.checked_next_multiple_of(self.align)?;
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some((name, kind, desc))
    }
}
