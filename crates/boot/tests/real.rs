//! A real kernel, when `STRATA_TEST_KERNEL` names one (a bzImage).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::env;
use std::path::PathBuf;

use common::{memory, read};
use strata_boot::{Boot, Cache, Compression, Kernel, Protocol};

fn kernel() -> Option<PathBuf> {
    let path = env::var_os("STRATA_TEST_KERNEL").map(PathBuf::from);
    if path.is_none() {
        eprintln!("STRATA_TEST_KERNEL is not set: no real kernel is tried");
    }
    path
}

fn boot(kernel: &Kernel) -> Boot<'_> {
    Boot {
        kernel,
        command_line: b"console=ttyS0",
        initrd: None,
        rsdp: None,
        reserved: &[],
        protocol: None,
    }
}

#[test]
fn a_distribution_kernel_is_loaded_in_every_form() {
    let Some(path) = kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("kernels"));

    let image = Kernel::open(&path).unwrap();
    assert_ne!(image.compression().unwrap(), Some(Compression::Unknown));
    assert!(
        image
            .version()
            .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
    );
    let entry = boot(&image).load(&memory(256)).unwrap();
    assert_eq!(entry.protocol, Protocol::Linux64);

    let cold = Kernel::open_unpacked(&path, Some(&cache)).unwrap();
    assert!(cold.warning().is_none());
    assert_eq!(cold.protocols(), [Protocol::Linux64, Protocol::Pvh]);
    let warm = Kernel::open_unpacked(&path, Some(&cache)).unwrap();
    let (a, b) = (memory(256), memory(256));
    let (from_memory, from_file) = (boot(&cold).load(&a).unwrap(), boot(&warm).load(&b).unwrap());
    assert_eq!(from_memory, from_file);
    let len = (from_file.kernel.end - from_file.kernel.start) as usize;
    let loaded = read(&b, from_file.kernel.start, len);
    assert!(loaded == read(&a, from_file.kernel.start, len));

    // The banner is in every kernel's read-only data.
    let release = image.version().unwrap().split(' ').next().unwrap();
    let banner = format!("Linux version {release}");
    assert!(
        loaded.windows(banner.len()).any(|w| w == banner.as_bytes()),
        "{banner}"
    );
}
