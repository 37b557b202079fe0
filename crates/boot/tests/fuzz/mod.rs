//! What is done with arbitrary bytes: by the fuzz targets of `fuzz/`, and by the ordinary test that
//! replays the corpus.

#![allow(clippy::expect_used)]

use strata_boot::test_utils::open_bytes;
use strata_boot::{Boot, Compression, Protocol};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// A kernel file: bzImage header, ELF headers, notes, payload.
pub(crate) fn kernel(bytes: &[u8]) {
    let Ok(kernel) = open_bytes(bytes.to_vec()) else {
        return;
    };
    // Whatever it is, it has a way in, and it copies no more than what there is for each segment.
    assert!(!kernel.protocols().is_empty());
    let _ = kernel.compression();
    if let Ok(dense) = kernel.to_dense() {
        let dense = open_bytes(dense).expect("the dense form is a kernel");
        assert!(dense.is_dense());
        if kernel.compression().is_ok_and(|c| c.is_none()) {
            assert_eq!(dense.occupies(), kernel.occupies());
            assert_eq!(dense.protocols(), kernel.protocols());
        }
    }
    let mem = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 32 << 20)]).expect("memory");
    for protocol in [Protocol::Linux64, Protocol::Pvh] {
        let boot = Boot {
            kernel: &kernel,
            command_line: b"quiet",
            initrd: None,
            rsdp: None,
            reserved: &[],
            protocol: Some(protocol),
        };
        if let Ok(entry) = boot.load(&mem) {
            assert!(entry.kernel.end <= 32 << 20);
        }
    }
}

/// A compressed payload, its method recognised by its first bytes.
pub(crate) fn unpack(bytes: &[u8]) {
    const LIMIT: u64 = 1 << 20;
    if let Ok(unpacked) = Compression::of(bytes).unpack(bytes, LIMIT) {
        assert!(unpacked.len() as u64 <= LIMIT);
    }
}
