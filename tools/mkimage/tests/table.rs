//! The partition table, as util-linux reads it: `blkid` checks its checksums.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use strata_mkimage::gpt;

const SIZE: u64 = 64 << 20;

const DISK: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\x8d\xef\x80\x12\x34\x56\x78\x9a\xbc\xde";
const PARTITION: [u8; 16] = *b"\x11\x23\x45\x67\x89\xab\x8d\xef\x80\x12\x34\x56\x78\x9a\xbc\xde";

fn blkid(path: &Path) -> String {
    let output = Command::new("/usr/sbin/blkid")
        .args(["-p", "-o", "export"])
        .arg(path)
        .output()
        .expect("blkid is a part of Debian's base");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn blkid_and_partx_find_the_root_partition() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = File::create_new(&path).unwrap();
    file.set_len(SIZE).unwrap();
    let table = gpt::table(SIZE, DISK, PARTITION);
    let tail = SIZE - table.tail.len() as u64;
    file.write_all_at(&table.head, 0).unwrap();
    file.write_all_at(&table.tail, tail).unwrap();
    let found = blkid(&path);
    assert!(found.contains("PTTYPE=gpt"), "{found}");
    assert!(
        found.contains("PTUUID=01234567-89ab-8def-8012-3456789abcde"),
        "{found}"
    );

    let output = Command::new("partx")
        .args(["--raw", "--noheadings"])
        .args(["--output", "NR,START,END,TYPE,UUID,NAME"])
        .arg(&path)
        .output()
        .expect("partx is a part of Debian's base");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        "1 2048 129023 4f68bce3-e8cd-4db1-96e7-fbcaf984b709 \
         11234567-89ab-8def-8012-3456789abcde root"
    );

    // The copy at the end serves when the first header is lost; its checksum counts too.
    file.write_all_at(&[0; 512], 512).unwrap();
    assert!(blkid(&path).contains("PTTYPE=gpt"));
    file.write_all_at(&[1], SIZE - 500).unwrap();
    assert!(!blkid(&path).contains("PTTYPE=gpt"));
}
