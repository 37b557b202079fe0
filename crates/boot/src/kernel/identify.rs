//! What a file is, and what a file that is no kernel looks like.

use crate::bytes::array;
use crate::error::Error;
use crate::kernel::bzimage::BzImage;
use crate::kernel::elf;

/// How many bytes are enough to tell.
pub(crate) const HEAD_SIZE: usize = 4096;

/// The two kinds of kernel that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    BzImage,
    Elf,
}

/// Recognises a kernel by its first [`HEAD_SIZE`] bytes, or says what else it is.
pub(crate) fn identify(head: &[u8]) -> Result<Kind, Error> {
    if BzImage::recognise(head) {
        return Ok(Kind::BzImage);
    }
    if head.starts_with(elf::MAGIC) {
        return Ok(Kind::Elf);
    }
    if let Some(arch) = other_arch(head) {
        return Err(Error::WrongArch { arch });
    }
    let (what, remedy) = looks_like(head);
    Err(Error::NotAKernel { what, remedy })
}

/// Kernel images of processors that do not use ELF or bzImage.
fn other_arch(head: &[u8]) -> Option<&'static str> {
    // Linux Documentation: arch/arm64/booting.rst, arch/riscv/boot-image-header.rst.
    if array(head, 0x38) == Some(*b"ARM\x64") {
        return Some("aarch64");
    }
    if array(head, 0x38) == Some(*b"RSC\x05") || array(head, 0x30) == Some(*b"RISCV") {
        return Some("RISC-V");
    }
    // The zImage of 32-bit Arm.
    if array(head, 0x24) == Some(0x016f_2818_u32.to_le_bytes()) {
        return Some("32-bit Arm");
    }
    None
}

const UNPACK: &str = "unpack it first";
const DISK: &str = "give it as a disk";
const TYPICAL: &str = "give a bzImage (/boot/vmlinuz-*) or an ELF vmlinux";

/// Beginnings of files that people mistake for kernels: description and remedy.
const SIGNATURES: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"\xfd7zXZ\0", "an xz file", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 file", UNPACK),
    (b"\x02\x21\x4c\x18", "an LZ4 file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"PK\x03\x04", "a zip file", UNPACK),
    (b"!<arch>\n", "an archive, perhaps a Debian package", UNPACK),
    (b"\xed\xab\xee\xdb", "an RPM package", UNPACK),
    (
        b"070701",
        "an initramfs (cpio archive)",
        "give it as the initrd",
    ),
    (
        b"070702",
        "an initramfs (cpio archive)",
        "give it as the initrd",
    ),
    (b"QFI\xfb", "a qcow2 disk image", DISK),
    (b"KDMV", "a VMDK disk image", DISK),
    (b"conectix", "a VHD disk image", DISK),
    (b"vhdxfile", "a VHDX disk image", DISK),
    (b"hsqs", "a squashfs file system", DISK),
    (
        b"MZ",
        "an EFI or Windows program without a Linux boot header",
        TYPICAL,
    ),
    (b"#!", "a script", TYPICAL),
];

fn looks_like(head: &[u8]) -> (&'static str, &'static str) {
    if let Some((_, what, remedy)) = SIGNATURES
        .iter()
        .find(|(magic, ..)| head.starts_with(magic))
    {
        return (what, remedy);
    }
    if array(head, 0x438) == Some([0x53, 0xef]) {
        return ("an ext2/3/4 file system", DISK);
    }
    if array(head, 510) == Some([0x55, 0xaa]) {
        return ("a disk image with a boot sector", DISK);
    }
    if head.iter().all(|&b| b == 0) {
        return ("zeroes", TYPICAL);
    }
    if head
        .iter()
        .all(|&b| b >= 0x20 || matches!(b, b'\n' | b'\r' | b'\t'))
    {
        return ("a text", TYPICAL);
    }
    ("data of an unknown kind", TYPICAL)
}
