//! The dense form: an ELF kernel from which the runs of zeroes have been taken out.
//!
//! A quarter of a Linux vmlinux's segments is zeroes (bss, alignment between sections). Fresh guest
//! memory is zero already, so writing them only costs copying and touches huge pages for nothing.
//! The dense form is an ELF file as any other, with more and smaller PT_LOADs whose bytes lie one
//! after another; the ordinary loader loads it, and `readelf` shows it. Its notes are the PVH
//! entry and a [`Mark`].

use sha2::{Digest, Sha256};

use crate::bytes::{array, put, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::kernel::Limits;
use crate::kernel::elf::{
    EHDR_SIZE, EM_X86_64, ET_EXEC, Elf, MAGIC, PHDR_SIZE, PT_LOAD, PT_NOTE, PVH_NOTE, Segment,
};
use crate::source::Source;

/// Owner and type of the note that holds the [`Mark`].
pub(crate) const NOTE: (&[u8], u32) = (b"Strata\0", 1);

const VERSION: u32 = 1;
const MARK_SIZE: usize = 80;
/// Offset of the content digest in a serialised mark.
const MARK_CONTENT: usize = 48;
const PAGE: usize = 4096;
/// All headers and notes; segments begin here.
const HEADER_SIZE: usize = 2 * PAGE;
/// Most segments of a kernel that is made dense (Linux has four or five), and the count from which
/// none is split further. Together they keep the headers within [`HEADER_SIZE`].
const MAX_SEGMENTS: usize = 64;
/// Below this a further segment (one more `read`) costs more than writing the zeroes.
const MIN_ZERO_RUN: u64 = 4 * PAGE as u64;
/// Bytes of a segment that are looked at in one go.
const CHUNK: u64 = 1 << 20;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

pub(crate) type Sha256Digest = [u8; 32];

/// What the dense form knows beyond an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Limits that the bzImage announced, or the defaults.
    pub(crate) limits: Limits,
    /// Digest of the file that it was made from.
    pub(crate) source: Sha256Digest,
    /// Digest of the dense file itself, with this field as zero.
    pub(crate) content: Sha256Digest,
}

impl Mark {
    /// Reads a note's descriptor; one of another version is no mark.
    pub(crate) fn parse(desc: &[u8]) -> Option<Self> {
        if desc.len() != MARK_SIZE || u32_at(desc, 0)? != VERSION {
            return None;
        }
        let limits = Limits {
            cmdline: u32_at(desc, 4)?,
            initrd_end: u64_at(desc, 8)?,
        };
        Some(Self {
            limits,
            source: array(desc, 16)?,
            content: array(desc, MARK_CONTENT)?,
        })
    }

    fn to_bytes(self) -> [u8; MARK_SIZE] {
        let mut desc = [0; MARK_SIZE];
        put(&mut desc, 0, &VERSION.to_le_bytes());
        put(&mut desc, 4, &self.limits.cmdline.to_le_bytes());
        put(&mut desc, 8, &self.limits.initrd_end.to_le_bytes());
        put(&mut desc, 16, &self.source);
        put(&mut desc, MARK_CONTENT, &self.content);
        desc
    }
}

/// Makes the dense form of `elf`, whose bytes are in `source`.
pub(crate) fn build(
    elf: &Elf,
    source: &Source,
    limits: Limits,
    digest: Sha256Digest,
) -> Result<Vec<u8>> {
    if elf.segments.len() > MAX_SEGMENTS {
        let (value, max) = (elf.segments.len() as u64, MAX_SEGMENTS as u64);
        return Err(Error::OverLimit {
            what: "number of segments",
            value,
            max,
        });
    }
    let mut writer = Writer {
        file: vec![0; HEADER_SIZE],
        segments: Vec::new(),
    };
    for segment in &elf.segments {
        writer.add(source, segment)?;
    }
    let Writer { mut file, segments } = writer;
    let content_at = write_header(&mut file, elf, &segments, limits, digest);
    let content: Sha256Digest = Sha256::digest(&file).into();
    put(&mut file, content_at, &content);
    Ok(file)
}

/// Whether a dense file's bytes are those that [`build`] wrote.
pub(crate) fn verify(mut file: Vec<u8>, mark: &Mark) -> bool {
    let header = &file[..file.len().min(HEADER_SIZE)];
    let Some(at) = header
        .windows(mark.content.len())
        .position(|w| w == mark.content)
    else {
        return false;
    };
    put(&mut file, at, &[0; 32]);
    mark.content == <Sha256Digest>::from(Sha256::digest(&file))
}

struct Writer {
    file: Vec<u8>,
    segments: Vec<Segment>,
}

impl Writer {
    /// Appends a segment's bytes without its long runs of zeroes.
    fn add(&mut self, source: &Source, segment: &Segment) -> Result<()> {
        self.begin(segment.gpa, segment.vaddr);
        let mut zeroes = 0;
        let mut done = 0;
        while done < segment.file_len {
            let gpa = segment.gpa + done;
            let len = (CHUNK - gpa % CHUNK).min(segment.file_len - done);
            let chunk = source.read_vec("an ELF segment", segment.offset + done, len, CHUNK)?;
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let at = segment.gpa + done;
                let page_len = (PAGE - at as usize % PAGE).min(rest.len());
                let (page, next) = rest.split_at(page_len);
                if page == &ZERO_PAGE[..page_len] {
                    zeroes += page_len as u64;
                } else {
                    self.skip(zeroes, at, segment.vaddr.wrapping_add(done));
                    zeroes = 0;
                    self.push(page);
                }
                done += page_len as u64;
                rest = next;
            }
        }
        self.extend_memory(zeroes + segment.mem_len - segment.file_len);
        Ok(())
    }

    /// Accounts for zeroes before the page at `gpa`: left out when they are many.
    fn skip(&mut self, zeroes: u64, gpa: u64, vaddr: u64) {
        if zeroes >= MIN_ZERO_RUN && self.segments.len() < MAX_SEGMENTS {
            self.extend_memory(zeroes);
            self.begin(gpa, vaddr);
        } else if zeroes > 0 {
            let filled = self.file.len() + zeroes as usize;
            self.file.resize(filled, 0);
            self.grow(zeroes);
        }
    }

    /// Starts a segment, at a file offset that equals its address within a page.
    fn begin(&mut self, gpa: u64, vaddr: u64) {
        let aligned = self.file.len().next_multiple_of(PAGE) + gpa as usize % PAGE;
        self.file.resize(aligned, 0);
        let offset = aligned as u64;
        self.segments.push(Segment {
            gpa,
            vaddr,
            offset,
            file_len: 0,
            mem_len: 0,
        });
    }

    fn push(&mut self, bytes: &[u8]) {
        self.file.extend_from_slice(bytes);
        self.grow(bytes.len() as u64);
    }

    fn grow(&mut self, len: u64) {
        if let Some(segment) = self.segments.last_mut() {
            segment.file_len += len;
            segment.mem_len += len;
        }
    }

    fn extend_memory(&mut self, len: u64) {
        if let Some(segment) = self.segments.last_mut() {
            segment.mem_len += len;
        }
    }
}

/// Writes ELF header, program headers and notes; returns where the content digest belongs.
fn write_header(
    file: &mut [u8],
    elf: &Elf,
    segments: &[Segment],
    limits: Limits,
    digest: Sha256Digest,
) -> usize {
    let mark = Mark {
        limits,
        source: digest,
        content: [0; 32],
    };
    let mut notes = Vec::new();
    if let Some(entry) = elf.pvh_entry {
        push_note(&mut notes, PVH_NOTE, &u64::from(entry).to_le_bytes());
    }
    push_note(&mut notes, NOTE, &mark.to_bytes());
    let notes_at = EHDR_SIZE + (segments.len() + 1) * PHDR_SIZE;
    put(file, notes_at, &notes);

    put(
        file,
        0,
        &ehdr(elf.linux_entry.unwrap_or(0), segments.len() as u16 + 1),
    );
    let mut at = EHDR_SIZE;
    for s in segments {
        put(file, at, &phdr(PT_LOAD, s, PAGE as u64));
        at += PHDR_SIZE;
    }
    let (offset, len) = (notes_at as u64, notes.len() as u64);
    let note = Segment {
        gpa: 0,
        vaddr: 0,
        offset,
        file_len: len,
        mem_len: len,
    };
    put(file, at, &phdr(PT_NOTE, &note, 4));
    notes_at + notes.len() - MARK_SIZE + MARK_CONTENT
}

pub(crate) fn push_note(notes: &mut Vec<u8>, (name, kind): (&[u8], u32), desc: &[u8]) {
    notes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    notes.extend_from_slice(&(desc.len() as u32).to_le_bytes());
    notes.extend_from_slice(&kind.to_le_bytes());
    notes.extend_from_slice(name);
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes.extend_from_slice(desc);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// An ELF64 header of a little-endian x86-64 executable whose program headers follow it.
pub(crate) fn ehdr(entry: u64, program_headers: u16) -> [u8; EHDR_SIZE] {
    let mut ehdr = [0; EHDR_SIZE];
    put(&mut ehdr, 0, MAGIC);
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT.
    put(&mut ehdr, 4, &[2, 1, 1]);
    put(&mut ehdr, 16, &ET_EXEC.to_le_bytes());
    put(&mut ehdr, 18, &EM_X86_64.to_le_bytes());
    put(&mut ehdr, 20, &1_u32.to_le_bytes());
    put(&mut ehdr, 24, &entry.to_le_bytes());
    put(&mut ehdr, 32, &(EHDR_SIZE as u64).to_le_bytes());
    put(&mut ehdr, 52, &(EHDR_SIZE as u16).to_le_bytes());
    put(&mut ehdr, 54, &(PHDR_SIZE as u16).to_le_bytes());
    put(&mut ehdr, 56, &program_headers.to_le_bytes());
    ehdr
}

/// An ELF64 program header with all permissions.
pub(crate) fn phdr(kind: u32, segment: &Segment, align: u64) -> [u8; PHDR_SIZE] {
    let mut phdr = [0; PHDR_SIZE];
    put(&mut phdr, 0, &kind.to_le_bytes());
    put(&mut phdr, 4, &7_u32.to_le_bytes());
    put(&mut phdr, 8, &segment.offset.to_le_bytes());
    put(&mut phdr, 16, &segment.vaddr.to_le_bytes());
    put(&mut phdr, 24, &segment.gpa.to_le_bytes());
    put(&mut phdr, 32, &segment.file_len.to_le_bytes());
    put(&mut phdr, 40, &segment.mem_len.to_le_bytes());
    put(&mut phdr, 48, &align.to_le_bytes());
    phdr
}
