//! What a person may get wrong: each a sentence that names the thing and the remedy, exit code 2.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Output;

use common::{Guest, Payload, finish, strata};

/// Checks the exit code and that the message has all of `words`, and is no trace.
fn refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
    for trace in ["panicked", "backtrace", "Error {", "src/"] {
        assert!(!stderr.contains(trace), "{stderr}");
    }
}

fn run_kernel(bytes: Option<&[u8]>, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    if let Some(bytes) = bytes {
        std::fs::write(&kernel, bytes).unwrap();
    }
    let mut command = strata(&["run", "--pvm-kernel", "--kernel"]);
    command.arg(kernel).args(args);
    finish(command)
}

/// An ELF header of class `class` for machine `machine`.
fn elf(class: u8, machine: u16) -> Vec<u8> {
    let mut elf = vec![0; 4096];
    elf[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    elf[16] = 2;
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[20] = 1;
    elf
}

#[test]
fn kernels_that_are_none() {
    refused(&run_kernel(None, &[]), &["kernel", "no such file"]);
    refused(&run_kernel(Some(b""), &[]), &["empty"]);
    refused(&run_kernel(Some(b"#!/bin/sh\n"), &[]), &["not a kernel"]);
    refused(&run_kernel(Some(&elf(1, 3)), &[]), &["CONFIG_64BIT"]);
    refused(&run_kernel(Some(&elf(2, 183)), &[]), &["built for"]);
    refused(&run_kernel(Some(&elf(2, 62)[..40]), &[]), &["truncated"]);
    refused(&run_kernel(Some(&[0x1f, 0x8b, 8, 0, 0, 0]), &[]), &["gzip"]);
    let mut directory = strata(&["run", "--pvm-kernel", "--kernel"]);
    directory.arg(std::env::temp_dir());
    refused(&finish(directory), &["directory"]);
}

#[test]
fn no_kernel_at_all() {
    refused(&finish(strata(&["run"])), &["--kernel", "--config"]);
}

#[test]
fn memory_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    for (size, word) in [
        ("0", "256M"),
        ("1000", "4"),
        ("4095M1", "unit"),
        ("-1G", "number"),
        ("many", "number"),
        ("1G,hugepages=3M", "2M"),
        ("1G,huge=2M", "`hugepages`"),
        ("900T", "host"),
        ("16M,hugepages=1G", ""),
        ("99999999999999999999G", "large"),
    ] {
        refused(&finish(guest.run_in(size)), &[word]);
    }
    // Too little for what is to be loaded: 2 MiB end where the kernel begins.
    refused(&finish(guest.run_in("2M")), &["MiB"]);
}

#[test]
fn cpu_counts_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    for cpus in ["0", "255", "256", "100000", "-1", "two", ""] {
        refused(&finish(guest.run(&["--cpus", cpus])), &["254"]);
    }
    refused(&finish(guest.run(&["--cpu", "pentium"])), &["x86-64-v2"]);
}

#[test]
fn an_initrd_that_does_not_fit() {
    let guest = Guest::new(Payload::PowerOff);
    let initrd = guest.path("initrd");
    std::fs::File::create(&initrd)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let args = ["--initrd", initrd.to_str().unwrap()];
    refused(&finish(guest.run(&args)), &["initrd", "memory"]);
    refused(
        &finish(guest.run(&["--initrd", "/nonexistent/initrd"])),
        &["no such file"],
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    let guest = Guest::new(Payload::PowerOff);
    let long = "x".repeat(100_000);
    refused(
        &finish(guest.run(&["--cmdline", &long])),
        &["100000", "at most"],
    );
}

#[test]
fn configuration_files() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut command = strata(&["run", "--config"]);
        command.arg(path);
        finish(command)
    };
    refused(
        &with("vm.toml", "kernal = 'x'"),
        &["vm.toml", "kernal", "kernel"],
    );
    refused(&with("vm.json", "{\"kernel\": 3}"), &["vm.json", "line 1"]);
    refused(&with("vm.toml", "kernel = 'x'\ncpus = 255"), &["254"]);
    refused(&with("vm.txt", ""), &[".json or .toml"]);
    refused(
        &with("vm.toml", "memory = {size = '1G', pages = 2}"),
        &["pages"],
    );
    let mut missing = strata(&["run", "--config"]);
    missing.arg(dir.path().join("none.toml"));
    refused(&finish(missing), &["none.toml"]);
}

#[test]
fn serial_targets() {
    let guest = Guest::new(Payload::PowerOff);
    refused(
        &finish(guest.run(&["--serial", "tcp:1"])),
        &["stdio, null, file=PATH"],
    );
    refused(
        &finish(guest.run(&["--serial", "file=/nonexistent/x"])),
        &["/nonexistent/x"],
    );
    refused(
        &finish(guest.run(&["--serial", "unix=/nonexistent/x"])),
        &["/nonexistent/x"],
    );
    let taken = guest.path("guest");
    let serial = format!("unix={}", taken.display());
    refused(
        &finish(guest.run(&["--serial", &serial])),
        &["does not exist yet"],
    );
    assert!(taken.exists(), "the file that was in the way is gone");
}

#[test]
fn small_devices_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    let taken = guest.path("guest");
    let vsock = format!("cid=3,socket={}", taken.display());
    for (args, words) in [
        (&["--vsock", "cid=2,socket=/tmp/v"][..], &["2", "3 to"][..]),
        (&["--vsock", "cid=3"], &["socket"]),
        (
            &["--vsock", "cid=3,socket=/nonexistent/v"],
            &["/nonexistent/v"],
        ),
        (&["--vsock", &vsock], &["in use"]),
        (&["--balloon", "256M"], &["256M", "ask for less"]),
        (&["--balloon", "1M,deflate=on"], &["deflate-on-oom"]),
        (&["--virtio-console", "tty"], &["stdio, null"]),
        (&["--virtio-console", "port=:null"], &["port=NAME"]),
        (
            &["--virtio-console", "unix=/nonexistent/x"],
            &["/nonexistent/x"],
        ),
        (
            &["--virtio-console", "stdio", "--serial", "stdio"],
            &["two consoles", "null"],
        ),
    ] {
        refused(&finish(guest.run(args)), words);
    }
    assert!(taken.exists(), "the file that was in the way is gone");
}

#[test]
fn a_log_file_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    refused(
        &finish(guest.run(&["--log-file", "/nonexistent/log"])),
        &["log file"],
    );
}

#[test]
fn unknown_options_and_commands() {
    refused(&finish(strata(&["run", "--kernal", "x"])), &["--kernel"]);
    refused(&finish(strata(&["rum"])), &["run"]);
    refused(&finish(strata(&["man", "rum"])), &["rum"]);
}

/// Runs strata in mount and user namespaces of its own, where `/dev/kvm` is `replacement`.
fn with_kvm_as(replacement: &Path, uid: &str) -> Output {
    let guest = Guest::new(Payload::PowerOff);
    let run = guest.run(&[]);
    let mut command = std::process::Command::new("unshare");
    let script = r#"mount --bind "$0" /dev/kvm && u=$1 && shift && exec setpriv --reuid "$u" --clear-groups "$@""#;
    command
        .args(["--mount", "sh", "-c", script])
        .arg(replacement)
        .arg(uid);
    command
        .arg(run.get_program())
        .args(run.get_args())
        .stdin(std::process::Stdio::null());
    finish(command)
}

#[test]
fn a_kvm_that_is_none_or_not_ours() {
    // Only root can put something else in KVM's place; others see the last case by themselves.
    if !Path::new("/root/.").exists() || std::fs::read_dir("/root").is_err() {
        return;
    }
    refused(
        &with_kvm_as(Path::new("/dev/null"), "0"),
        &["/dev/kvm", "version"],
    );
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    std::fs::write(&closed, "").unwrap();
    refused(&with_kvm_as(&closed, "0"), &["/dev/kvm"]);
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["man"],
        &["man", "run"],
    ] {
        let output = finish(strata(args));
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty());
    }
    let output = finish(strata(&["completions", "bash"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--kernel"));
}

#[test]
fn the_effective_configuration_is_printed_and_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.json");
    let args = [
        "run",
        "--print-config",
        "--kernel",
        "/k",
        "--memory",
        "1G,hugepages=2M",
        "--balloon=64M,deflate-on-oom=off",
        "--secret=id=key,file=/key",
        "--disk=/a,format=qcow2,encrypt.key-secret=key",
        "--disk=/b,format=luks,key-secret=key",
        "--vsock=cid=3,socket=/v",
        "--virtio-console=stdio",
        "--virtio-console=port=agent:unix=/a",
    ];
    let first = finish(strata(&args)).stdout;
    std::fs::write(&path, &first).unwrap();
    let again = finish(strata(&[
        "run",
        "--print-config",
        "--config",
        path.to_str().unwrap(),
    ]));
    assert_eq!(String::from_utf8_lossy(&again.stderr), "");
    assert_eq!(again.stdout, first);
}
