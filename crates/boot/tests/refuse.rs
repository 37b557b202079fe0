//! Files that are no kernels for these guests: each is named, with a remedy.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::{cause, file, sentence};
use strata_boot::test_utils::{BzImageKernel, ElfKernel, open_bytes};
use strata_boot::{Error, Initrd, Kernel};

/// Opens bytes as a kernel file and returns the sentence that refuses it.
fn refusal(bytes: &[u8]) -> String {
    let (_dir, path) = file(bytes);
    let error = Kernel::open(&path).expect_err("not refused");
    let text = sentence(&error);
    assert!(
        text.contains(path.to_str().unwrap()),
        "does not name the file: {text}"
    );
    text
}

fn assert_says(bytes: &[u8], words: &[&str]) {
    let text = refusal(bytes);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// [`ElfKernel::small`] with some bytes replaced.
fn elf_with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut elf = ElfKernel::small().to_bytes();
    elf[offset..offset + bytes.len()].copy_from_slice(bytes);
    elf
}

/// 4 KiB of zeroes but for a magic number.
fn with_magic(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn what_is_no_regular_file_with_content() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("vmlinuz");
    let open = |path: &Path| cause(Kernel::open(path).unwrap_err());
    assert!(matches!(open(&missing), Error::Missing));
    assert!(matches!(open(dir.path()), Error::Directory));
    assert!(matches!(open(Path::new("/dev/null")), Error::NotRegular));
    assert_says(b"", &["the file is empty", "copy or build it again"]);

    let error = Initrd::open(&missing).unwrap_err();
    assert!(
        sentence(&error).contains("vmlinuz: there is no such file"),
        "{error}"
    );
    assert!(matches!(
        cause(Initrd::open(dir.path()).unwrap_err()),
        Error::Directory
    ));
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_other_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    assert!(matches!(
        cause(Kernel::open(&path).unwrap_err()),
        Error::NotRegular
    ));
}

#[test]
fn other_files_are_named() {
    assert_says(b"\x1f\x8b\x08\0", &["a gzip file", "unpack it"]);
    assert_says(b"\xfd7zXZ\0", &["an xz file"]);
    assert_says(b"\x28\xb5\x2f\xfd", &["a zstd file"]);
    assert_says(
        b"QFI\xfb\0\0\0\x03",
        &["a qcow2 disk image", "give it as a disk"],
    );
    assert_says(b"070701000", &["an initramfs", "give it as the initrd"]);
    assert_says(b"#!/bin/sh\n", &["a script"]);
    assert_says(b"hello\n", &["a text", "vmlinuz"]);
    assert_says(b"MZ\0\0", &["an EFI or Windows program"]);
    assert_says(
        &with_magic(0x1fe, b"\x55\xaa"),
        &["a disk image with a boot sector"],
    );
    assert_says(
        &with_magic(0x438, b"\x53\xef"),
        &["an ext2/3/4 file system"],
    );
    assert_says(&[0; 4096], &["it is zeroes"]);
    assert_says(&[1, 2, 3], &["data of an unknown kind"]);
}

#[test]
fn other_architectures_are_named() {
    assert_says(
        &with_magic(0x38, b"ARM\x64"),
        &["built for aarch64", "x86-64"],
    );
    assert_says(&with_magic(0x38, b"RSC\x05"), &["built for RISC-V"]);
    assert_says(
        &with_magic(0x24, b"\x18\x28\x6f\x01"),
        &["built for 32-bit Arm"],
    );
    assert_says(&elf_with(18, &[183, 0]), &["built for aarch64"]);
    assert_says(&elf_with(18, &[243, 0]), &["built for RISC-V"]);
    // Big-endian s390.
    assert_says(
        &elf_with(5, &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 22]),
        &["built for s390"],
    );
}

#[test]
fn kernels_without_a_64_bit_entry() {
    let old = BzImageKernel {
        protocol: 0x20b,
        ..BzImageKernel::small()
    };
    let small = BzImageKernel {
        xloadflags: 0,
        ..BzImageKernel::small()
    };
    assert_says(
        &old.to_bytes(),
        &["a bzImage without a 64-bit entry", "CONFIG_64BIT"],
    );
    assert_says(&small.to_bytes(), &["a bzImage without a 64-bit entry"]);
    let mut elf = elf_with(18, &[3, 0]);
    elf[4] = 1;
    assert_says(&elf, &["a 32-bit ELF file"]);
}

#[test]
fn elf_files_that_are_no_kernels() {
    let program = ElfKernel {
        vmlinux: false,
        pvh_entry: None,
        ..ElfKernel::small()
    };
    assert_says(
        &program.to_bytes(),
        &["without a PVH note", "not a Linux vmlinux"],
    );
    assert_says(
        &elf_with(16, &[1, 0]),
        &["an ELF object file", "use the linked vmlinux"],
    );
    let astray = ElfKernel {
        pvh_entry: Some(0x100),
        ..ElfKernel::small()
    };
    assert_says(&astray.to_bytes(), &["the PVH entry lies in no segment"]);
}

#[test]
fn a_vmlinux_needs_no_note_and_a_note_needs_no_vmlinux() {
    let vmlinux = ElfKernel {
        pvh_entry: None,
        ..ElfKernel::small()
    };
    let payload = ElfKernel {
        vmlinux: false,
        ..ElfKernel::small()
    };
    for elf in [vmlinux, payload] {
        assert_eq!(open_bytes(elf.to_bytes()).unwrap().protocols().len(), 1);
    }
}

#[test]
fn every_truncation_is_an_error() {
    for whole in [
        ElfKernel::small().to_bytes(),
        BzImageKernel::small().to_bytes(),
    ] {
        // The bzImage ends with up to 15 bytes of padding, which may be missing.
        let steps = (0..2048).chain((2048..whole.len() - 16).step_by(1021));
        for len in steps {
            assert!(open_bytes(whole[..len].to_vec()).is_err(), "{len}");
        }
    }
    let elf = ElfKernel::small().to_bytes();
    assert_says(
        &elf[..elf.len() - 200],
        &["truncated", "copy or build it again"],
    );
    let image = BzImageKernel::small().to_bytes();
    assert_says(
        &image[..image.len() - 200],
        &["truncated: the protected-mode kernel"],
    );
    assert_says(&image[..0x210], &["truncated: the setup header"]);
}

#[test]
fn absurd_claims_are_refused() {
    let headers = 56;
    let over = open_bytes(elf_with(headers, &[0xff, 0xff])).unwrap_err();
    assert!(matches!(cause(over), Error::OverLimit { .. }));
    assert!(matches!(
        cause(open_bytes(elf_with(headers, &[0, 0])).unwrap_err()),
        Error::Malformed { .. }
    ));
    // Of the first program header: size in memory, beyond the address space and below the file's.
    let memsz = 64 + 40;
    for (size, what) in [
        (u64::MAX, "a segment ends beyond the address space"),
        (1, "a segment is larger in the file than in memory"),
    ] {
        assert_says(
            &elf_with(memsz, &size.to_le_bytes()),
            &["it is damaged", what],
        );
    }
    let huge = BzImageKernel {
        init_size: u32::MAX,
        ..BzImageKernel::small()
    };
    assert!(matches!(
        cause(open_bytes(huge.to_bytes()).unwrap_err()),
        Error::OverLimit { .. }
    ));
}
