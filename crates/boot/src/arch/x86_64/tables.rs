//! Descriptor and page tables that the processor starts with in long mode.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};

use super::layout::MAPPED_END;
use crate::error::{Error, Result};

/// Selector of the code segment (Linux's `__BOOT_CS`).
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data and stack segments (Linux's `__BOOT_DS`).
pub const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment.
pub const TSS_SELECTOR: u16 = 0x20;
/// Size of the descriptor table in bytes.
pub const GDT_SIZE: u16 = 0x28;
/// Size of all tables in bytes.
pub const SIZE: usize = 4 * PAGE;
/// Offset of the PML4 in the tables, which begin with the descriptor table.
pub const PML4: u64 = PAGE as u64;

const PAGE: usize = 4096;
/// Flat segments (SDM volume 3, 3.4.5): base 0, present, accessed; 64-bit code, data of 4 GiB.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// A busy TSS of 0x68 bytes at 0 (SDM volume 3, 8.2.3).
const TSS: u64 = 0x0000_8b00_0000_0067;

/// The tables for the page-aligned guest-physical address `at`, [`SIZE`] bytes: a descriptor table
/// with the selectors above, then a PML4, a page-directory-pointer table and a page directory that
/// map the first GiB onto itself by 2 MiB pages.
pub fn tables(at: u64) -> Vec<u8> {
    // SDM volume 3, 4.5: present and writable; and a page rather than a table.
    const TABLE: u64 = 0x3;
    const LARGE_PAGE: u64 = 0x83;
    const LARGE_PAGE_SIZE: u64 = 2 << 20;

    let page = |index: u64| at + index * PAGE as u64;
    let mut bytes = Vec::with_capacity(SIZE);
    push_page(&mut bytes, [0, 0, CODE, DATA, TSS]);
    push_page(&mut bytes, [page(2) | TABLE]);
    push_page(&mut bytes, [page(3) | TABLE]);
    push_page(
        &mut bytes,
        (0..MAPPED_END / LARGE_PAGE_SIZE).map(|i| (i * LARGE_PAGE_SIZE) | LARGE_PAGE),
    );
    bytes
}

fn push_page(bytes: &mut Vec<u8>, entries: impl IntoIterator<Item = u64>) {
    let end = bytes.len() + PAGE;
    for entry in entries {
        bytes.extend_from_slice(&entry.to_le_bytes());
    }
    bytes.resize(end, 0);
}

/// Writes [`tables`] for the guest-physical address `at` there.
///
/// # Errors
///
/// [`Error::GuestMemory`] when they do not lie in RAM.
pub fn write<M: GuestMemoryBackend>(mem: &M, at: u64) -> Result<()> {
    mem.write_slice(&tables(at), GuestAddress(at))
        .map_err(|source| {
            let what = "descriptor and page tables";
            Error::GuestMemory {
                what,
                addr: at,
                source,
            }
        })
}
