//! Images that qemu-img made read as qemu-io wrote them.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::process::Command;
use std::sync::Arc;

use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{Image, OpenOptions};

fn run(command: &str, args: &[&str]) {
    let output = Command::new(command).args(args).output().unwrap();
    assert!(output.status.success(), "{command} {args:?}: {output:?}");
}

#[test]
fn reads_what_qemu_wrote() {
    let dir = tempfile::tempdir().unwrap();
    for options in [
        "compat=v3",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "compression_type=zstd",
    ] {
        let path = dir.path().join("image");
        let name = path.to_str().unwrap();
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, name, "40M"],
        );
        run(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "write -P 1 0 3000",
                "-c",
                "write -P 2 5M 1M",
                "-c",
                "write -c -P 3 12M 2M",
                "-c",
                "write -P 4 39M 1M",
                "-c",
                "write -P 5 5500k 3k",
                name,
            ],
        );
        let file = FileStorage::open(&path, FileOptions::default()).unwrap();
        let image = Image::open(Arc::new(file), OpenOptions::default()).unwrap();
        let mut disk = vec![0xff; image.size() as usize];
        image.read_at(&mut disk, 0).unwrap();
        let mut model = vec![0; 40 << 20];
        for (value, start, length) in [
            (1, 0, 3000),
            (2, 5 << 20, 1 << 20),
            (3, 12 << 20, 2 << 20),
            (4, 39 << 20, 1 << 20),
            (5, 5500 << 10, 3 << 10),
        ] {
            model[start..start + length].fill(value);
        }
        assert!(disk == model, "{options}");
    }
}
