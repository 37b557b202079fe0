//! Hostile kernel files: the fuzz corpus replayed, valid images bent by chance, and what they make
//! this crate allocate.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fuzz;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use strata_boot::test_utils::{BzImageKernel, ElfKernel, lz4_stored, open_bytes, with_size};

thread_local! {
    /// The largest single allocation that this thread has asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which remembers the largest request.
struct Watched;

// SAFETY: every call is handed to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took it from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn largest_allocation(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

fn replay(target: &str, body: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        body(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5, "the corpus of {target} is gone");
}

#[test]
fn corpus_of_kernels() {
    replay("kernel", fuzz::kernel);
}

#[test]
fn corpus_of_payloads() {
    replay("unpack", fuzz::unpack);
}

/// An ELF kernel of a few hundred bytes, so that bent bytes hit headers.
fn tiny_elf() -> ElfKernel {
    let segments = vec![
        (16 << 20, vec![0x90; 200], 5000),
        (17 << 20, vec![1; 30], 30),
    ];
    ElfKernel {
        segments,
        ..ElfKernel::small()
    }
}

fn tiny_bzimage() -> BzImageKernel {
    let elf = tiny_elf().to_bytes();
    BzImageKernel::with_payload(with_size(lz4_stored(&elf), elf.len()))
}

/// Valid bytes with some of them replaced, by values that hurt or by any.
fn bent(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![Just(0_u8), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()];
    let run = (0..valid.len(), proptest::collection::vec(value, 1..9));
    (proptest::collection::vec(run, 1..5), 0..=valid.len()).prop_map(move |(runs, cut)| {
        let mut bytes = valid.clone();
        for (at, values) in runs {
            for (byte, value) in bytes[at..].iter_mut().zip(values) {
                *byte = value;
            }
        }
        // Most stay whole.
        if cut % 4 == 0 {
            bytes.truncate(cut);
        }
        bytes
    })
}

/// Beyond what a file holds: a block of LZ4, a window of zstd rounded up, and the test's own.
const CONSTANT: usize = 300 << 20;
/// For files without zstd.
const SMALL_CONSTANT: usize = 17 << 20;

proptest! {
    #[test]
    fn bent_elf_kernels(bytes in bent(tiny_elf().to_bytes())) {
        let largest = largest_allocation(|| fuzz::kernel(&bytes));
        prop_assert!(largest <= SMALL_CONSTANT, "{}", largest);
    }

    #[test]
    fn bent_bzimages(bytes in bent(tiny_bzimage().to_bytes())) {
        let largest = largest_allocation(|| fuzz::kernel(&bytes));
        prop_assert!(largest <= SMALL_CONSTANT, "{}", largest);
    }

    #[test]
    fn arbitrary_payloads(magic in 0..8_usize, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let magics: [&[u8]; 8] = [
            b"\x1f\x8b\x08\0", b"BZh9", b"\x5d\0\0\x80\0", b"\xfd7zXZ\0", b"\x89LZO",
            b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\x7fELF",
        ];
        let bytes = [magics[magic], &tail].concat();
        let largest = largest_allocation(|| fuzz::unpack(&bytes));
        prop_assert!(largest <= CONSTANT, "{}", largest);
    }

    /// Whatever a valid kernel's segments are, its dense form puts the same bytes in memory.
    #[test]
    fn the_dense_form_is_the_same_kernel(
        segments in proptest::collection::vec((0..3_usize, 0..40_000_usize, 0..20_000_u64, any::<u64>()), 1..5),
    ) {
        let mut gpa = 16 << 20;
        let mut parts = Vec::new();
        for (skew, len, bss, pattern) in segments {
            gpa += skew as u64 * 1000;
            // Each page is zero or not by a bit of the pattern.
            let bytes: Vec<u8> = (0..len).map(|i| (pattern >> (i / 4096 * 7 % 64)) as u8 & 1).collect();
            let mem_len = (len as u64 + bss).max(1);
            parts.push((gpa, bytes, mem_len));
            gpa += mem_len;
        }
        let entry = parts[0].0;
        let elf = ElfKernel { segments: parts, entry, pvh_entry: None, vmlinux: true };
        let elf = open_bytes(elf.to_bytes()).unwrap();
        let dense = open_bytes(elf.to_dense().unwrap()).unwrap();
        prop_assert_eq!(elf.occupies(), dense.occupies());
        prop_assert!(dense.loaded_bytes() <= elf.loaded_bytes());
        prop_assert_eq!(image(&elf), image(&dense));
    }
}

/// What lies in guest memory after a kernel is loaded.
fn image(kernel: &strata_boot::Kernel) -> Vec<u8> {
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
    let mem = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
    let boot = strata_boot::Boot {
        kernel,
        command_line: b"",
        initrd: None,
        rsdp: None,
        reserved: &[],
        protocol: None,
    };
    let lies = boot.load(&mem).unwrap().kernel;
    let mut bytes = vec![0; (lies.end - lies.start) as usize];
    mem.read_slice(&mut bytes, GuestAddress(lies.start))
        .unwrap();
    bytes
}

#[test]
fn claims_of_size_are_not_allocated() {
    // A payload of nothing that claims as much as a header can.
    for magic in [&b"\x02\x21\x4c\x18"[..], b"\x1f\x8b\x08\0", b"\xfd7zXZ\0"] {
        let payload = with_size(magic.to_vec(), u32::MAX as usize);
        let init_size = 1 << 30;
        let bytes = BzImageKernel {
            init_size,
            ..BzImageKernel::with_payload(payload)
        }
        .to_bytes();
        let largest = largest_allocation(|| fuzz::kernel(&bytes));
        assert!(largest <= SMALL_CONSTANT, "{largest}");
    }
    // Notes and segments that claim more than the file has.
    let mut elf = tiny_elf().to_bytes();
    let note_filesz = 64 + 2 * 56 + 32;
    elf[note_filesz..note_filesz + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let largest = largest_allocation(|| fuzz::kernel(&elf));
    assert!(largest <= 1 << 20, "{largest}");
}
