//! The cache: found again, never believed blindly, never in the way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use common::cause;
use strata_boot::test_utils::{BzImageKernel, ElfKernel};
use strata_boot::{Cache, Error, Initrd, Kernel};
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
    cache: Cache,
    kernel: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinuz");
        fs::write(&kernel, BzImageKernel::small().to_bytes()).unwrap();
        let cache = Cache::new(dir.path().join("cache/kernels"));
        Self { dir, cache, kernel }
    }

    fn open(&self) -> Kernel {
        Kernel::open_unpacked(&self.kernel, Some(&self.cache)).unwrap()
    }

    /// The cache's files with an extension.
    fn files(&self, extension: &str) -> Vec<PathBuf> {
        files(self.cache.dir(), extension)
    }

    fn dense(&self) -> PathBuf {
        let mut files = self.files("elf");
        assert_eq!(files.len(), 1);
        files.remove(0)
    }

    /// Opens the kernel and says whether the reference led straight to the dense file: any other
    /// way writes at least the reference anew.
    fn is_warm(&self) -> bool {
        let state = |f: &Self| {
            let mut inodes: Vec<_> = ["elf", "ref"]
                .into_iter()
                .flat_map(|extension| f.files(extension))
                .map(|path| (fs::metadata(&path).unwrap().ino(), path))
                .collect();
            inodes.sort();
            inodes
        };
        let before = state(self);
        assert!(self.open().is_dense());
        state(self) == before
    }
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect()
}

#[test]
fn a_kernel_is_unpacked_once() {
    let f = Fixture::new();
    assert!(f.open().warning().is_none());
    assert_eq!(
        (
            f.files("elf").len(),
            f.files("ref").len(),
            f.files("tmp").len()
        ),
        (1, 1, 0)
    );
    assert!(f.is_warm());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(f.cache.dir()), mode(&f.dense())), (0o700, 0o600));
}

#[test]
fn a_changed_kernel_file_is_another_kernel() {
    let f = Fixture::new();
    f.open();
    let other = BzImageKernel {
        cmdline_size: 100,
        ..BzImageKernel::small()
    };
    fs::write(&f.kernel, other.to_bytes()).unwrap();
    assert_eq!(f.open().limits().cmdline, 100);
    assert_eq!(f.files("elf").len(), 2);
}

#[test]
fn a_change_that_keeps_size_and_mtime_is_seen() {
    let f = Fixture::new();
    f.open();
    let mtime = fs::metadata(&f.kernel).unwrap().modified().unwrap();
    // Longer than a file system's clock ticks.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let other = BzImageKernel {
        cmdline_size: 100,
        ..BzImageKernel::small()
    };
    fs::write(&f.kernel, other.to_bytes()).unwrap();
    fs::File::options()
        .write(true)
        .open(&f.kernel)
        .unwrap()
        .set_modified(mtime)
        .unwrap();
    assert_eq!(f.open().limits().cmdline, 100);
}

#[test]
fn a_copy_of_a_kernel_file_needs_no_unpacking() {
    let f = Fixture::new();
    f.open();
    let made = fs::metadata(f.dense()).unwrap().modified().unwrap();
    let copy = f.dir.path().join("copy");
    fs::copy(&f.kernel, &copy).unwrap();
    Kernel::open_unpacked(&copy, Some(&f.cache)).unwrap();
    assert_eq!((f.files("elf").len(), f.files("ref").len()), (1, 2));
    assert_eq!(fs::metadata(f.dense()).unwrap().modified().unwrap(), made);
}

#[test]
fn a_changed_dense_file_is_made_again() {
    let f = Fixture::new();
    f.open();
    let path = f.dense();
    let good = fs::read(&path).unwrap();
    for at in [0, 100, 0x2000, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(f.open().is_dense());
        assert_eq!(fs::read(&path).unwrap(), good, "byte {at}");
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    f.open();
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn a_dense_file_of_another_kernel_is_not_believed() {
    let f = Fixture::new();
    f.open();
    let path = f.dense();
    let other = BzImageKernel {
        cmdline_size: 100,
        ..BzImageKernel::small()
    }
    .to_bytes();
    let (_dir, other) = common::file(&other);
    let dense = Kernel::open(&other).unwrap().to_dense().unwrap();
    fs::write(&path, dense).unwrap();
    assert_eq!(f.open().limits().cmdline, 2047);
}

#[test]
fn what_others_can_write_is_not_believed() {
    let f = Fixture::new();
    f.open();
    fs::set_permissions(f.dense(), fs::Permissions::from_mode(0o666)).unwrap();
    f.open();
    let mode = fs::metadata(f.dense()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    fs::set_permissions(f.cache.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let kernel = f.open();
    assert!(kernel.is_dense());
    assert!(
        kernel
            .warning()
            .unwrap()
            .source
            .to_string()
            .contains("chmod")
    );
}

#[test]
fn garbage_in_the_reference_is_no_way() {
    let f = Fixture::new();
    f.open();
    let reference = f.files("ref").remove(0);
    let good = fs::read(&reference).unwrap();
    for garbage in [
        &b""[..],
        b"x",
        b"../../etc/passwd y",
        &[0xff; 100],
        &[b'a'; 4096],
    ] {
        fs::write(&reference, garbage).unwrap();
        assert!(f.open().is_dense());
        assert_eq!(fs::read(&reference).unwrap(), good);
    }
}

#[test]
fn a_cache_that_cannot_be_is_a_warning() {
    let f = Fixture::new();
    let blocked = Cache::new(f.kernel.join("below/a/file"));
    let kernel = Kernel::open_unpacked(&f.kernel, Some(&blocked)).unwrap();
    assert!(kernel.is_dense());
    assert!(
        kernel
            .warning()
            .unwrap()
            .to_string()
            .contains("cannot keep what was unpacked")
    );
}

#[test]
fn elf_kernels_are_loaded_as_they_are() {
    let f = Fixture::new();
    fs::write(&f.kernel, ElfKernel::small().to_bytes()).unwrap();
    assert!(!f.open().is_dense());
    assert!(!f.cache.dir().exists());
    // Also where an earlier version, or somebody by hand, gave it the dense form.
    fs::write(&f.kernel, BzImageKernel::small().to_bytes()).unwrap();
    f.open();
    let dense = f.dir.path().join("dense");
    fs::copy(f.dense(), &dense).unwrap();
    let kernel = Kernel::open_unpacked(&dense, Some(&f.cache)).unwrap();
    assert!(kernel.is_dense());
    assert_eq!(f.files("elf").len(), 1);
}

#[test]
fn the_oldest_go_and_strangers_stay() {
    let f = Fixture::new();
    f.open();
    let first = f.dense();
    let stranger = f.cache.dir().join("notes.elf");
    fs::write(&stranger, "mine").unwrap();
    for cmdline_size in 0..16 {
        let image = BzImageKernel {
            cmdline_size,
            ..BzImageKernel::small()
        };
        fs::write(&f.kernel, image.to_bytes()).unwrap();
        f.open();
    }
    let kept: Vec<_> = f
        .files("elf")
        .into_iter()
        .filter(|p| *p != stranger)
        .collect();
    assert_eq!(kept.len(), 16);
    assert!(!first.exists() && stranger.exists());
    assert!(f.is_warm());
}

#[test]
fn a_bad_kernel_is_an_error_with_a_cache_too() {
    let f = Fixture::new();
    fs::write(&f.kernel, "#!/bin/sh\n").unwrap();
    let error = Kernel::open_unpacked(&f.kernel, Some(&f.cache)).unwrap_err();
    assert!(matches!(cause(error), Error::NotAKernel { .. }));
}

#[test]
fn many_at_once_agree() {
    let f = Fixture::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(f.open().is_dense()));
        }
    });
    assert_eq!((f.files("elf").len(), f.files("tmp").len()), (1, 0));
    f.open();
    assert!(f.is_warm());
}

/// A gzip initrd of one stored block, so that no compressor is needed here.
fn gzip_initrd() -> (Vec<u8>, Vec<u8>) {
    let mut plain = b"070701".to_vec();
    plain.extend([b'0'; 8 * 11]);
    plain.extend(b"0000000b00000000TRAILER!!!\0\0\0\0");
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    packed.extend((plain.len() as u16).to_le_bytes());
    packed.extend((!(plain.len() as u16)).to_le_bytes());
    packed.extend(&plain);
    let crc = plain.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    });
    packed.extend((!crc).to_le_bytes());
    packed.extend((plain.len() as u32).to_le_bytes());
    (packed, plain)
}

#[test]
fn an_initrd_is_unpacked_once_and_found_again() {
    let f = Fixture::new();
    let (packed, plain) = gzip_initrd();
    let path = f.dir.path().join("initrd.gz");
    fs::write(&path, &packed).unwrap();
    let open = |max| Initrd::open_unpacked(&path, Some(&f.cache), max).unwrap();
    assert_eq!(open(1 << 20).size(), plain.len() as u64);
    let kept = f.files("cpio");
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(&kept[0]).unwrap(), plain);
    let inode = fs::metadata(&kept[0]).unwrap().ino();
    assert_eq!(open(1 << 20).size(), plain.len() as u64);
    assert_eq!(
        fs::metadata(&kept[0]).unwrap().ino(),
        inode,
        "it was made anew"
    );
    // A guest too small for the plain form gets the file as it is.
    assert_eq!(open(plain.len() as u64 - 1).size(), packed.len() as u64);
    // Another content is not mistaken for the first.
    fs::write(&path, &plain).unwrap();
    assert_eq!(open(1 << 20).size(), plain.len() as u64);
    assert_eq!(f.files("cpio").len(), 1);
}

#[test]
fn an_initrd_without_a_cache_is_unpacked_all_the_same() {
    let f = Fixture::new();
    let (packed, plain) = gzip_initrd();
    let path = f.dir.path().join("initrd.gz");
    fs::write(&path, &packed).unwrap();
    let initrd = Initrd::open_unpacked(&path, None, 1 << 20).unwrap();
    assert_eq!(initrd.size(), plain.len() as u64);
    assert!(initrd.warning().is_none());
    assert_eq!(Initrd::open(&path).unwrap().size(), packed.len() as u64);
}

#[test]
fn a_plain_archive_before_a_compressed_one_hides_nothing() {
    let f = Fixture::new();
    let (packed, plain) = gzip_initrd();
    let path = f.dir.path().join("initrd");
    // As distributions have it: the processor's microcode first, for the kernel to find it early.
    let whole = [plain.clone(), packed].concat();
    fs::write(&path, &whole).unwrap();
    let initrd = Initrd::open_unpacked(&path, None, 1 << 20).unwrap();
    assert_eq!(initrd.size(), 2 * plain.len() as u64);
    // Zeroes behind an archive are its block's.
    let filled = [plain.clone(), vec![0; 300]].concat();
    fs::write(&path, &filled).unwrap();
    let initrd = Initrd::open_unpacked(&path, None, 1 << 20).unwrap();
    assert_eq!(initrd.size(), filled.len() as u64);
}
