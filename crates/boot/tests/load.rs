//! Kernels as they lie in guest memory when the guest starts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{cause, file, memory, read, u32_at, u64_at};
use strata_boot::arch::x86_64::{layout, tables};
use strata_boot::test_utils::{BzImageKernel, ElfKernel};
use strata_boot::{Boot, Error, Initrd, Kernel, Protocol};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const PAGE: usize = 4096;
const MIB: u64 = 1 << 20;

fn boot(kernel: &Kernel) -> Boot<'_> {
    let command_line = b"console=ttyS0";
    Boot {
        kernel,
        command_line,
        initrd: None,
        rsdp: Some(layout::ACPI),
        reserved: &[],
        protocol: None,
    }
}

fn small_elf() -> Kernel {
    let (_dir, path) = file(&ElfKernel::small().to_bytes());
    Kernel::open(&path).unwrap()
}

/// The bytes of [`ElfKernel::small`]'s segment, bss included.
fn small_segment() -> Vec<u8> {
    let (_, mut bytes, mem_len) = ElfKernel::small().segments.remove(0);
    bytes.resize(mem_len as usize, 0);
    bytes
}

#[test]
fn elf_is_loaded_whole_and_entered_by_the_linux_protocol() {
    let (kernel, mem) = (small_elf(), memory(64));
    let entry = boot(&kernel).load(&mem).unwrap();
    assert_eq!(entry.protocol, Protocol::Linux64);
    assert_eq!(entry.rip, 16 * MIB);
    assert_eq!(entry.kernel, 16 * MIB..16 * MIB + 32 * PAGE as u64);
    assert_eq!(read(&mem, 16 * MIB, 32 * PAGE), small_segment());

    assert_eq!(entry.arg, layout::ZERO_PAGE);
    assert_eq!(read(&mem, entry.arg + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(read(&mem, entry.arg + 0x202, 4), *b"HdrS");
    assert_eq!(read(&mem, entry.arg + 0x210, 1), [0xff]);
    assert_eq!(u64_at(&mem, entry.arg + 0x70), layout::ACPI);
    let command_line = u32_at(&mem, entry.arg + 0x228);
    assert_eq!(read(&mem, command_line.into(), 14), *b"console=ttyS0\0");
    assert_eq!(
        read(&mem, entry.tables, tables::SIZE),
        tables::tables(entry.tables)
    );
}

#[test]
fn pvh_entry_has_start_info_with_memory_map_and_modules() {
    let (kernel, mem) = (small_elf(), memory(64));
    let (_dir, path) = file(&[7; 5000]);
    let initrd = Initrd::open(&path).unwrap();
    let protocol = Some(Protocol::Pvh);
    let entry = Boot {
        protocol,
        initrd: Some(&initrd),
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap();
    assert_eq!((entry.rip, entry.tables), (16 * MIB + 0x100, 0));

    let info = entry.arg;
    assert_eq!(u32_at(&mem, info), 0x336e_c578);
    assert_eq!((u32_at(&mem, info + 4), u32_at(&mem, info + 12)), (1, 1));
    assert_eq!(read(&mem, u64_at(&mem, info + 24), 14), *b"console=ttyS0\0");
    assert_eq!(u64_at(&mem, info + 32), layout::ACPI);
    let module = u64_at(&mem, info + 16);
    let lies = entry.initrd.unwrap();
    assert_eq!(
        (u64_at(&mem, module), u64_at(&mem, module + 8)),
        (lies.start, 5000)
    );
    assert_eq!(read(&mem, lies.start, 5000), [7; 5000]);

    let (map, count) = (u64_at(&mem, info + 40), u32_at(&mem, info + 48));
    let entries: Vec<_> = (0..u64::from(count))
        .map(|i| map + i * 24)
        .map(|at| {
            (
                u64_at(&mem, at),
                u64_at(&mem, at + 8),
                u32_at(&mem, at + 16),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            (0, 0x9fc00, 1),
            (0x9fc00, 0x400, 2),
            (0xe0000, 0x20000, 3),
            (MIB, 63 * MIB, 1),
        ]
    );
}

#[test]
fn bzimage_is_loaded_as_it_is() {
    let image = BzImageKernel::small();
    let (_dir, path) = file(&image.to_bytes());
    let kernel = Kernel::open(&path).unwrap();
    assert_eq!(kernel.version(), Some("6.1.0-test"));
    let mem = memory(64);
    let entry = boot(&kernel).load(&mem).unwrap();
    assert_eq!(
        (entry.protocol, entry.rip),
        (Protocol::Linux64, 16 * MIB + 0x200)
    );
    assert_eq!(entry.kernel, 16 * MIB..20 * MIB);
    assert_eq!(
        read(&mem, 16 * MIB + 0x400, image.payload.len()),
        image.payload
    );
    // The header is the kernel's own, with what a loader adds.
    assert_eq!(u32_at(&mem, entry.arg + 0x260), image.init_size);
    assert_eq!(read(&mem, entry.arg + 0x210, 2), [0xff, 1]);
    assert_eq!(u32_at(&mem, entry.arg + 0x214), 16 << 20);
}

#[test]
fn bzimage_without_its_wrapping_is_the_elf_inside() {
    let (_dir, path) = file(&BzImageKernel::small().to_bytes());
    let kernel = Kernel::open_unpacked(&path, None).unwrap();
    assert!(kernel.is_dense());
    assert_eq!(kernel.loaded_bytes(), 8 * PAGE as u64);
    let mem = memory(64);
    let entry = boot(&kernel).load(&mem).unwrap();
    assert_eq!(entry.kernel, 16 * MIB..16 * MIB + 32 * PAGE as u64);
    assert_eq!(read(&mem, 16 * MIB, 32 * PAGE), small_segment());
    assert_eq!(kernel.protocols(), [Protocol::Linux64, Protocol::Pvh]);
}

#[test]
fn limits_of_the_bzimage_outlive_its_wrapping() {
    let image = BzImageKernel {
        cmdline_size: 20,
        initrd_addr_max: 0x37ff_ffff,
        ..BzImageKernel::small()
    };
    let (_dir, path) = file(&image.to_bytes());
    let kernel = Kernel::open_unpacked(&path, None).unwrap();
    assert_eq!(kernel.limits().initrd_end, 0x3800_0000);
    let mem = memory(64);
    let command_line = &[b'x'; 21];
    let error = Boot {
        command_line,
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap_err();
    assert!(
        matches!(error, Error::CommandLineTooLong { len: 21, max: 20 }),
        "{error}"
    );
    let command_line = &[b'x'; 20];
    Boot {
        command_line,
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap();
}

#[test]
fn command_line_with_a_zero_byte_is_refused() {
    let (kernel, mem) = (small_elf(), memory(64));
    let command_line = b"a\0b";
    let error = Boot {
        command_line,
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap_err();
    assert!(matches!(error, Error::CommandLineZero { at: 1 }), "{error}");
}

#[test]
fn small_initrd_shares_the_first_huge_page() {
    let (kernel, mem) = (small_elf(), memory(64));
    let (_dir, path) = file(&vec![1; MIB as usize]);
    let initrd = Initrd::open(&path).unwrap();
    let entry = Boot {
        initrd: Some(&initrd),
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap();
    assert_eq!(entry.initrd, Some(MIB..2 * MIB));
}

#[test]
fn larger_initrd_goes_to_the_top_below_its_limit() {
    let image = BzImageKernel {
        initrd_addr_max: 0x2ff_ffff,
        ..BzImageKernel::small()
    };
    let (_dir, path) = file(&image.to_bytes());
    let kernel = Kernel::open(&path).unwrap();
    let (_dir, path) = file(&vec![1; MIB as usize + 1]);
    let initrd = Initrd::open(&path).unwrap();
    let entry = Boot {
        initrd: Some(&initrd),
        ..boot(&kernel)
    }
    .load(&memory(64))
    .unwrap();
    let start = 48 * MIB - MIB - PAGE as u64;
    assert_eq!(entry.initrd, Some(start..start + MIB + 1));
    assert_eq!(u32_at(&memory(64), 0), 0);
}

#[test]
fn initrd_that_does_not_fit_names_the_room() {
    let (kernel, mem) = (small_elf(), memory(32));
    let (_dir, path) = file(&[]);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(20 * MIB)
        .unwrap();
    let initrd = Initrd::open(&path).unwrap();
    let error = Boot {
        initrd: Some(&initrd),
        ..boot(&kernel)
    }
    .load(&mem)
    .unwrap_err();
    let room = 16 * MIB - 32 * PAGE as u64;
    assert!(
        matches!(cause(error), Error::InitrdDoesNotFit { size, room: r } if size == 20 * MIB && r == room)
    );
}

#[test]
fn kernel_that_does_not_fit_is_refused() {
    let (_dir, path) = file(&BzImageKernel::small().to_bytes());
    let kernel = Kernel::open(&path).unwrap();
    let error = cause(boot(&kernel).load(&memory(18)).unwrap_err());
    assert!(
        matches!(error, Error::KernelDoesNotFit { have, .. } if have == 18 * MIB),
        "{error}"
    );
    assert!(error.to_string().contains("at least 20 MiB"), "{error}");
}

#[test]
fn kernel_in_the_gap_or_low_memory_is_refused() {
    for gpa in [0x1000, 0xf_f000, 512 * MIB, 2048 * MIB] {
        let segments = vec![(gpa, vec![1; 16], 16)];
        let pvh_entry = Some(gpa as u32);
        let elf = ElfKernel {
            segments,
            entry: gpa,
            pvh_entry,
            vmlinux: true,
        };
        let (_dir, path) = file(&elf.to_bytes());
        let kernel = Kernel::open(&path).unwrap();
        assert!(boot(&kernel).load(&memory(64)).is_err(), "{gpa:#x}");
    }
}

#[test]
fn memory_without_a_first_megabyte_is_refused() {
    let kernel = small_elf();
    let above = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(MIB), 64 << 20)]).unwrap();
    assert!(matches!(
        boot(&kernel).load(&above),
        Err(Error::LowMemory { .. })
    ));
    let little = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    assert!(matches!(
        boot(&kernel).load(&little),
        Err(Error::LowMemory { .. })
    ));
}

#[test]
fn protocol_that_the_kernel_lacks_is_refused() {
    let (_dir, path) = file(&BzImageKernel::small().to_bytes());
    let kernel = Kernel::open(&path).unwrap();
    let error = Boot {
        protocol: Some(Protocol::Pvh),
        ..boot(&kernel)
    }
    .load(&memory(64));
    assert!(matches!(cause(error.unwrap_err()), Error::Protocol { .. }));
}

#[test]
fn zeroes_are_not_written() {
    let (_dir, path) = file(&BzImageKernel::small().to_bytes());
    let kernel = Kernel::open_unpacked(&path, None).unwrap();
    let mem = memory(64);
    let hole = 16 * MIB + 6 * PAGE as u64;
    vm_memory::Bytes::write_slice(&mem, &[5; 8], GuestAddress(hole)).unwrap();
    boot(&kernel).load(&mem).unwrap();
    assert_eq!(read(&mem, hole, 8), [5; 8]);
}
