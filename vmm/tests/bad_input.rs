//! What a person may get wrong: each a sentence that names the thing and the remedy, exit code 2.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Guest, Payload, finish, strata};
use serde_json::{Value, json};

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
    // A table's mistakes are told with its place and the key.
    refused(
        &with(
            "vm.json",
            "{\"kernel\": \"x\",\n\"disk\": [{\"path\": \"a\", \"queues\": \"x\"}]}",
        ),
        &["vm.json", "queues: a number", "line 2"],
    );
    refused(
        &with("vm.json", "{\"net\": [{\"user\": true, \"user\": true}]}"),
        &["user is said twice", "line 1"],
    );
    refused(
        &with(
            "vm.toml",
            "kernel = 'x'\n[[disk]]\npath = 'a'\ncache = true",
        ),
        &["line 2", "cache needs a value"],
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
fn disks_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    let image = |name: &str, args: &[&str]| {
        let path = guest.path(name);
        let mut create = Command::new("qemu-img");
        let create = create.args(["create", "-q", "-f", "qcow2"]).args(args);
        assert!(create.arg(&path).arg("1M").status().unwrap().success());
        path.display().to_string()
    };
    let base = image("base", &[]);
    let top = image("top", &["-b", &base, "-F", "qcow2"]);
    let orphan = image("orphan", &["-u", "-b", "gone", "-F", "qcow2"]);
    let raw = guest.path("raw");
    std::fs::write(&raw, [0; 4096]).unwrap();
    let raw = raw.display().to_string();
    for (disk, words) in [
        (
            "/nonexistent/d".to_owned(),
            &["/nonexistent/d", "create it"][..],
        ),
        ("/tmp".to_owned(), &["/tmp", "name a file"]),
        (format!("{raw},format=qcow2"), &[&raw, "not qcow2", "raw"]),
        (base.clone(), &[&base, "looks like qcow2", "format=qcow2"]),
        (
            format!("{top},format=qcow2"),
            &[&top, &base, "backing=off", "backing=on"],
        ),
        (
            format!("{top},format=probe,backing=on"),
            &[&top, "format", "must be given"],
        ),
        (
            format!("{orphan},format=qcow2,backing=on"),
            &[&orphan, "gone", "bring it back"],
        ),
        (format!("{raw},queues=65"), &["1 to 64", "65"]),
        (format!("{raw},cache=none"), &["direct", "writeback"]),
        (format!("{raw},backup=on"), &["backup", "backing"]),
    ] {
        refused(&finish(guest.run(&["--disk", &disk])), words);
    }
    let twice = guest.run(&["--disk", &raw, "--disk", &raw]);
    refused(&finish(twice), &[&raw, "another disk", "read-only"]);

    let lock = guest.run(&["--disk", &raw, "--net", "bridge=nonexistent0"]);
    // What is refused leaves no lock behind.
    refused(&finish(lock), &["nonexistent0"]);
    let held = Command::new("qemu-io")
        .args(["-f", "raw", &raw])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut held = held.unwrap();
    held.stdin
        .as_mut()
        .unwrap()
        .write_all(b"read 0 512\n")
        .unwrap();
    let mut line = String::new();
    let mut answers = BufReader::new(held.stdout.as_mut().unwrap());
    answers.read_line(&mut line).unwrap();
    let locked = finish(guest.run(&["--disk", &raw]));
    drop(held.stdin.take());
    held.wait().unwrap();
    refused(&locked, &[&raw, "in use by another process", "read-only"]);
}

#[test]
fn networks_that_can_not_be() {
    let guest = Guest::new(Payload::PowerOff);
    for (args, words) in [
        (&["--net", "br0"][..], &["br0", "bridge"][..]),
        (&["--net", "bridge=nonexistent0"], &["nonexistent0", "list"]),
        (&["--net", "bridge=lo"], &["lo is no bridge", "list"]),
        (&["--net", "tap=lo"], &["lo is no tap", "bridge="]),
        (
            &["--net", "bridge=sixteencharacter"],
            &["sixteencharacter", "15 characters"],
        ),
        (
            &["--net", "tap=sixteencharacter"],
            &["sixteencharacter", "15 characters"],
        ),
        (&["--net", "fd=999"], &["999", "open it"]),
        (&["--net", "fd=0"], &["descriptor 0 ", "IFF_TAP"]),
        (
            &["--net", "user,mac=01:00:5e:00:00:01"],
            &["01:00:5e:00:00:01", "multicast", "52:54:00"],
        ),
        (&["--net", "user,queues=2"], &["leave queues out"]),
        (&["--net", "user,bps=0"], &["bps=0", "leave it out"]),
        (
            &["--net", "tap=tap0,pps=1,vhost=on"],
            &["vhost knows no limits", "leave out"],
        ),
        (
            &["--net", "user,hostfwd=tcp::65536-:22"],
            &["1 to 65535", "tcp::2222-:22"],
        ),
    ] {
        refused(&finish(guest.run(args)), words);
    }
    // Taken within the machine, whatever the networks.
    let mac = "52:54:00:00:00:01";
    let with = |how: &str| format!("{how},mac={mac}");
    let twice = guest.run(&["--net", &with("user"), "--net", &with("user,id=b")]);
    refused(&finish(twice), &[mac, "taken by net0", "choose another"]);
}

#[test]
fn taps_need_rights() {
    let guest = Guest::new(Payload::PowerOff);
    for net in ["--net=tap=tap0", "--net=bridge=br0"] {
        let mut run = Command::new("unshare");
        // Every right but that one, in a network of its own.
        run.args(["--net", "setpriv", "--bounding-set=-net_admin"]);
        run.args(["--inh-caps=-net_admin", env!("CARGO_BIN_EXE_strata")]);
        run.args(["run", "--pvm-kernel", "--memory=16M", net, "--kernel"]);
        run.arg(guest.path("guest"));
        refused(
            &finish(run),
            &["no right", "tap0", "sudo ip tuntap add tap0"],
        );
    }
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
        (
            &[
                "--virtio-console=port=a:null",
                "--virtio-console=port=a:null",
            ],
            &["two ports", "name a"],
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

/// What `--print-config` prints for these arguments: as it is, and read.
fn print_config(args: &[&str]) -> (Vec<u8>, Value) {
    let output = finish(strata(&[&["run", "--print-config"], args].concat()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let value = serde_json::from_slice(&output.stdout).unwrap();
    (output.stdout, value)
}

#[test]
fn the_effective_configuration_is_printed_and_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.json");
    let (first, _) = print_config(&[
        "--kernel",
        "/k",
        "--memory",
        "1G,hugepages=2M",
        "--balloon=64M,deflate-on-oom=off",
        "--secret=id=key,file=/key",
        "--disk=/a,format=qcow2,encrypt.key-secret=key",
        "--disk=/b,format=luks,key-secret=key,iops=100,bps=1M",
        "--net=bridge=br0",
        "--net=user,hostfwd=tcp::2222-:22,mac=52:54:00:00:00:01,pps=1000,bps=1M",
        "--vsock=cid=3,socket=/v",
        "--virtio-console=stdio",
        "--virtio-console=port=agent:unix=/a",
    ]);
    std::fs::write(&path, &first).unwrap();
    let (again, _) = print_config(&["--config", path.to_str().unwrap()]);
    assert_eq!(
        String::from_utf8_lossy(&again),
        String::from_utf8_lossy(&first)
    );
}

#[test]
fn what_was_not_said_of_disks_and_cards_is_printed_too() {
    let (_, config) = print_config(&[
        "--kernel=/k",
        "--disk=/a",
        "--disk=/b,id=a-name-that-is-longer-than-a-serial",
        "--net=bridge=br0",
        "--net=tap=t0,vhost=auto,pps=9",
    ]);
    assert_eq!(
        config["disk"][0],
        json!({
            "path": "/a", "id": "disk0", "format": null, "readonly": false,
            "cache": "writeback", "queues": 1, "iops": null, "bps": null, "backing": false,
            "serial": "disk0", "on-error": "report", "encrypt": null, "key-secret": null,
        })
    );
    assert_eq!(config["disk"][1]["serial"], "a-name-that-is-longe");
    assert_eq!(
        config["net"],
        json!([
            {
                "id": "net0", "bridge": "br0", "tap": "tap%d", "fd": null, "user": false,
                "hostfwd": [], "mac": "random", "mtu": "auto", "queues": 1,
                "bps": null, "pps": null, "vhost": "off",
            },
            {
                "id": "net1", "bridge": null, "tap": "t0", "fd": null, "user": false,
                "hostfwd": [], "mac": "random", "mtu": 1500, "queues": 1,
                "bps": null, "pps": 9, "vhost": "off",
            },
        ])
    );
}
