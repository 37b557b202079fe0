//! Images and guests that try to make the programs open what they should not.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::path::Path;
use std::process::{Command, Output};

fn img(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata-img"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn io(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strata-io"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_guessed_raw_disk_cannot_become_another_format() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    img(dir, &["create", "-q", "-f", "raw", "disk", "1M"]);
    img(dir, &["create", "-q", "-f", "qcow2", "image", "1M"]);
    let guessed = io(dir, &["-c", "write -s image 0 512", "disk"]);
    assert!(
        text(&guessed).contains("write failed: Operation not permitted"),
        "{}",
        text(&guessed)
    );
    assert!(!guessed.status.success());
    // Elsewhere, and where the format was given, the same bytes are the guest's own.
    assert!(
        io(dir, &["-c", "write -s image 512 512", "disk"])
            .status
            .success()
    );
    assert!(
        io(dir, &["-f", "raw", "-c", "write -s image 0 512", "disk"])
            .status
            .success()
    );
}

#[test]
fn chains_that_never_end_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    img(dir, &["create", "-q", "-f", "qcow2", "a", "1M"]);
    img(
        dir,
        &["create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b"],
    );
    img(dir, &["rebase", "-u", "-b", "b", "-F", "qcow2", "a"]);
    for args in [
        &["map", "a"][..],
        &["convert", "-O", "raw", "b", "c"],
        &["commit", "b"],
    ] {
        let output = img(dir, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            text(&output).contains("creates an infinite loop"),
            "{}",
            text(&output)
        );
    }
    assert!(!dir.join("c").exists(), "a failed convert leaves nothing");
}

#[test]
fn a_data_file_is_a_file_and_info_leaves_it_closed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let json = "json:{\"driver\":\"null-co\"}";
    img(
        dir,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "data_file=data",
            "image",
            "1M",
        ],
    );
    let amend = format!("data_file={}", json.replace(',', ",,"));
    assert!(img(dir, &["amend", "-o", &amend, "image"]).status.success());
    let info = img(dir, &["info", "image"]);
    assert!(
        info.status.success() && text(&info).contains(json),
        "{}",
        text(&info)
    );
    let read = io(dir, &["-c", "read 0 512", "image"]);
    assert!(
        text(&read).contains("Unknown protocol 'json'"),
        "{}",
        text(&read)
    );
}

#[test]
fn a_writer_keeps_others_off_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    img(dir, &["create", "-q", "-f", "qcow2", "image", "1M"]);
    let mut writer = Command::new(env!("CARGO_BIN_EXE_strata-io"))
        .args(["-c", "write 0 512", "-c", "sleep 60000", "image"])
        .current_dir(dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The lock is there once the writer has opened the image.
    let refused = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        text(&img(dir, &["info", "image"])).contains("lock")
    });
    let forced = img(dir, &["info", "-U", "image"]);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(refused && forced.status.success());
}

#[test]
fn a_creation_that_fails_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    // A disk that is full after 2 MiB.
    let create = |name: &str, options: &[&str]| {
        let script = "ulimit -f 4096; trap '' XFSZ; exec \"$@\"";
        let output = Command::new("sh")
            .args([
                "-c",
                script,
                "sh",
                env!("CARGO_BIN_EXE_strata-img"),
                "create",
                "-q",
            ])
            .args(options)
            .args([name, "64M"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    };
    create("a", &["-f", "qcow2", "-o", "preallocation=full"]);
    create(
        "b",
        &["-f", "qcow2", "-o", "preallocation=full,data_file=c"],
    );
    create("d", &["-f", "raw", "-o", "preallocation=full"]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Not what the user had there.
    std::fs::write(dir.path().join("e"), b"old").unwrap();
    create("e", &["-f", "raw", "-o", "preallocation=full"]);
    assert!(dir.path().join("e").exists());
    // It was emptied, and what there is of an image would not open.
    create("e", &["-f", "qcow2", "-o", "preallocation=full"]);
    assert!(!dir.path().join("e").exists());
    // Known to be impossible before anything changes.
    std::fs::write(dir.path().join("e"), b"old").unwrap();
    create("e", &["-f", "qcow2", "-o", "cluster_size=1000"]);
    assert_eq!(std::fs::read(dir.path().join("e")).unwrap(), b"old");
}
