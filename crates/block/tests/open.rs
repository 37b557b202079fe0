//! Opening disks: formats, what stands below, and locks, also against QEMU's own tools.

mod common;

use std::path::Path;
use std::process::Command;

use common::{create, overlay, qemu_io};
use strata_block::{Cache, Disk, DiskOptions, Error, Format};

fn options(path: &Path, format: Format) -> DiskOptions {
    DiskOptions::new(path, format)
}

fn read_only(path: &Path, format: Format) -> DiskOptions {
    DiskOptions {
        read_only: true,
        ..options(path, format)
    }
}

fn with_backing(path: &Path) -> DiskOptions {
    DiskOptions {
        backing: true,
        ..options(path, Format::Qcow2)
    }
}

#[test]
fn formats_are_taken_at_their_word() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.qcow2");
    create(&image, 1 << 20);
    let length = std::fs::metadata(&image).unwrap().len();

    assert_eq!(
        Disk::open(&options(&image, Format::Qcow2)).unwrap().size(),
        1 << 20
    );
    assert_eq!(
        Disk::open(&options(&image, Format::Probe)).unwrap().size(),
        1 << 20
    );
    // Said to be raw it is raw, whatever is in it.
    assert_eq!(
        Disk::open(&options(&image, Format::Raw)).unwrap().size(),
        length.next_multiple_of(512)
    );

    let raw = dir.path().join("raw");
    std::fs::write(&raw, [0; 5000]).unwrap();
    let disk = Disk::open(&options(&raw, Format::Probe)).unwrap();
    assert_eq!(disk.size(), 5120);
    drop(disk);
    let error = Disk::open(&options(&raw, Format::Qcow2)).unwrap_err();
    assert!(matches!(error, Error::NotQcow2 { .. }), "{error}");
    assert!(error.to_string().contains("as raw"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Disk::open(&options(Path::new("/nowhere/disk"), Format::Raw)).unwrap_err();
    assert!(matches!(error, Error::Open { .. }));
    assert!(error.to_string().contains("/nowhere/disk"), "{error}");
    let error = Disk::open(&options(Path::new("/tmp"), Format::Raw)).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    let error = Disk::open(&read_only(Path::new("/dev/null"), Format::Raw)).unwrap_err();
    assert!(error.to_string().contains("block device"), "{error}");
}

#[test]
fn backing_files_are_followed_only_if_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    create(&base, 1 << 20);
    overlay(&top, "base", "qcow2");

    let error = Disk::open(&options(&top, Format::Qcow2)).unwrap_err();
    assert!(matches!(error, Error::BackingNotAllowed { .. }), "{error}");
    assert!(error.to_string().contains("backing=on"), "{error}");
    assert_eq!(Disk::open(&with_backing(&top)).unwrap().nodes().count(), 2);

    let probe = DiskOptions {
        format: Format::Probe,
        ..with_backing(&top)
    };
    let error = Disk::open(&probe).unwrap_err();
    assert!(matches!(error, Error::ProbeWithBacking { .. }), "{error}");

    std::fs::remove_file(&base).unwrap();
    let error = Disk::open(&with_backing(&top)).unwrap_err();
    assert!(matches!(error, Error::BackingMissing { .. }), "{error}");
    assert!(error.to_string().contains("base"), "{error}");
}

#[test]
fn loops_and_backing_files_of_no_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    create(&dir.path().join("base"), 1 << 20);
    overlay(&top, "base", "");
    let error = Disk::open(&with_backing(&top)).unwrap_err();
    assert!(matches!(error, Error::BackingFormat { .. }), "{error}");

    overlay(&top, "top", "qcow2");
    let error = Disk::open(&with_backing(&top)).unwrap_err();
    // Its own lock may be what is in the way: the file is open for writing already.
    assert!(matches!(error, Error::Depth { .. }), "{error}");
}

#[test]
fn one_process_writes_or_many_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.qcow2");
    create(&image, 1 << 20);

    let writer = Disk::open(&options(&image, Format::Qcow2)).unwrap();
    for again in [
        options(&image, Format::Qcow2),
        read_only(&image, Format::Raw),
    ] {
        let error = Disk::open(&again).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        assert!(error.to_string().contains("end the other use"), "{error}");
    }
    drop(writer);

    let reader = Disk::open(&read_only(&image, Format::Qcow2)).unwrap();
    let other = Disk::open(&read_only(&image, Format::Qcow2)).unwrap();
    let error = Disk::open(&options(&image, Format::Qcow2)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop((reader, other));
    Disk::open(&options(&image, Format::Qcow2)).unwrap();
}

#[test]
fn what_a_chain_stands_on_can_not_be_written_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top, other) = (
        dir.path().join("base"),
        dir.path().join("top"),
        dir.path().join("other"),
    );
    create(&base, 1 << 20);
    overlay(&top, "base", "qcow2");
    overlay(&other, "base", "qcow2");
    let one = Disk::open(&with_backing(&top)).unwrap();
    // Two disks may stand on one base.
    let two = Disk::open(&with_backing(&other)).unwrap();
    let error = Disk::open(&options(&base, Format::Qcow2)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop((one, two));
    let base = Disk::open(&options(&base, Format::Qcow2)).unwrap();
    let error = Disk::open(&with_backing(&top)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(base);
}

#[test]
fn locks_are_those_of_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.qcow2");
    create(&image, 1 << 20);
    let qemu_img = |write: bool| {
        let mut command = Command::new("qemu-img");
        if write {
            command.args(["resize", "-q"]).arg(&image).arg("1M");
        } else {
            command.arg("info").arg(&image);
        }
        command.output().unwrap()
    };
    let refused = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("lock"), "{said}");
    };

    let writer = Disk::open(&options(&image, Format::Qcow2)).unwrap();
    refused(qemu_img(false));
    refused(qemu_img(true));
    drop(writer);
    assert!(qemu_img(true).status.success());

    let reader = Disk::open(&read_only(&image, Format::Qcow2)).unwrap();
    assert!(qemu_img(false).status.success());
    refused(qemu_img(true));
    drop(reader);

    let mut theirs = qemu_io(&image, &[]);
    for ours in [
        options(&image, Format::Qcow2),
        read_only(&image, Format::Qcow2),
    ] {
        let error = Disk::open(&ours).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
    theirs.end();

    let mut theirs = qemu_io(&image, &["-r"]);
    let error = Disk::open(&options(&image, Format::Qcow2)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    Disk::open(&read_only(&image, Format::Qcow2)).unwrap();
    theirs.end();
    Disk::open(&options(&image, Format::Qcow2)).unwrap();
}

#[test]
fn sizes_change() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.qcow2");
    create(&image, 1 << 20);
    let disk = Disk::open(&options(&image, Format::Qcow2)).unwrap();
    disk.resize(2 << 20).unwrap();
    assert_eq!(disk.size(), 2 << 20);
    assert!(matches!(disk.resize(1000), Err(Error::Invalid(_))));
    disk.close().unwrap();
    drop(disk);
    let disk = Disk::open(&read_only(&image, Format::Qcow2)).unwrap();
    assert_eq!(disk.size(), 2 << 20);
    assert!(matches!(disk.resize(4 << 20), Err(Error::Invalid(_))));
}

#[test]
fn direct_says_what_it_needs() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let direct = DiskOptions {
        cache: Cache::Direct,
        ..options(&raw, Format::Raw)
    };
    let alignment = Disk::open(&direct).unwrap().alignment();
    assert!([512, 4096].contains(&alignment), "{alignment}");
    assert_eq!(
        Disk::open(&options(&raw, Format::Raw)).unwrap().alignment(),
        512
    );
}
