//! A minimal ELF file with a PVH entry note.

const LOAD_ADDRESS: u32 = 0x20_0000;
const HEADERS: usize = 64 + 2 * 56;
const NOTE_SIZE: usize = 12 + 4 + 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

fn program_header(kind: u32, flags: u32, offset: usize, address: u32, size: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    header.extend((offset as u64).to_le_bytes());
    header.extend(u64::from(address).to_le_bytes());
    header.extend(u64::from(address).to_le_bytes());
    header.extend((size as u64).to_le_bytes());
    header.extend((size as u64).to_le_bytes());
    header.extend(4096_u64.to_le_bytes());
    header
}

/// An ELF64 file whose one segment is `code`, entered at its first byte in 32-bit protected
/// mode, as PVH has it.
pub fn image(code: &[u8]) -> Vec<u8> {
    let note_at = HEADERS;
    let code_at = 4096;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2_u16.to_le_bytes()); // ET_EXEC
    elf.extend(62_u16.to_le_bytes()); // EM_X86_64
    elf.extend(1_u32.to_le_bytes());
    elf.extend(u64::from(LOAD_ADDRESS).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(program_header(1, 7, code_at, LOAD_ADDRESS, code.len()));
    elf.extend(program_header(4, 4, note_at, 0, NOTE_SIZE));
    for word in [4, 4, XEN_ELFNOTE_PHYS32_ENTRY] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"Xen\0");
    elf.extend(LOAD_ADDRESS.to_le_bytes());
    elf.resize(code_at, 0);
    elf.extend(code);
    elf
}
