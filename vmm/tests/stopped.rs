//! What disks do while their machine is stopped: nothing, and what they did before is in their files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Guest, Machine, Payload, Qmp, WRITES, piped, start};
use serde_json::{Value, json};

const SIZE: usize = 4 << 20;
const WHILE: Duration = Duration::from_millis(500);

fn raw(guest: &Guest) -> String {
    let path = guest.path("disk");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(SIZE as u64)
        .unwrap();
    path.to_str().unwrap().to_owned()
}

fn qcow2(guest: &Guest) -> String {
    let path = guest.path("disk");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&path], &["4M"]);
    path.to_str().unwrap().to_owned()
}

fn qemu_img(args: &[&str], paths: &[&Path], more: &[&str]) {
    let mut command = Command::new("qemu-img");
    let output = command.args(args).args(paths).args(more).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What [`Payload::Write`] makes of an empty disk.
fn expected() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    for (place, byte) in disk.chunks_mut(64 << 10).zip(1..=WRITES as u8) {
        place[..4096].fill(byte);
    }
    disk
}

/// What a copy of an image shows.
fn contents(guest: &Guest, path: &str) -> Vec<u8> {
    let (copy, plain) = (guest.path("copy"), guest.path("plain"));
    std::fs::copy(path, &copy).unwrap();
    qemu_img(&["convert", "-O", "raw"], &[&copy, &plain], &[]);
    std::fs::read(&plain).unwrap()
}

/// Writes that the disk has done.
fn written(client: &mut Qmp) -> u64 {
    let stats = client.run("query-blockstats", json!({}));
    stats[0]["stats"]["wr_operations"].as_u64().unwrap()
}

fn wait_written(client: &mut Qmp, count: usize) {
    while written(client) < count as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(client: &mut Qmp) -> Value {
    client.run("query-status", json!({}))["status"].take()
}

fn unlimited(client: &mut Qmp) {
    let limits = json!({ "id": "d", "bps": 0, "bps_rd": 0, "bps_wr": 0,
                         "iops": 0, "iops_rd": 0, "iops_wr": 0 });
    client.run("block_set_io_throttle", limits);
}

/// From now on `machine` can write to no file, or to all again.
fn limit_files(machine: &Machine, writable: bool) {
    let value = if writable { libc::RLIM_INFINITY } else { 0 };
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: libc::RLIM_INFINITY,
    };
    let pid = machine.id() as i32;
    // SAFETY: the limit lives through the call, and none is to be read back.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// As [`start`], but a write over the limit is an error and no signal.
fn start_limited(guest: &Guest, args: &[&str]) -> (Machine, Qmp) {
    let path = guest.path("qmp");
    let mut run = guest.run(args);
    run.arg("--qmp").arg(format!("unix={}", path.display()));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    command.arg(run.get_program()).args(run.get_args());
    (piped(command), Qmp::connect(&path))
}

#[test]
fn nothing_that_a_limit_holds_back_is_written_while_the_machine_is_stopped() {
    let guest = Guest::new(Payload::Write);
    let path = raw(&guest);
    let (mut child, mut client) = start(&guest, &["--disk", &format!("{path},id=d,iops=20")]);
    child.wait_for("asked");
    client.run("stop", json!({}));
    let (before, file) = (written(&mut client), std::fs::read(&path).unwrap());
    assert!(before < WRITES as u64, "{before}");
    std::thread::sleep(WHILE);
    assert_eq!(written(&mut client), before);
    // Nor when it is free to.
    unlimited(&mut client);
    std::thread::sleep(WHILE);
    assert_eq!(written(&mut client), before);
    assert!(std::fs::read(&path).unwrap() == file);
    client.run("cont", json!({}));
    wait_written(&mut client, WRITES);
    client.run("stop", json!({}));
    assert!(std::fs::read(&path).unwrap() == expected());
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn an_image_is_complete_while_its_machine_is_stopped() {
    let guest = Guest::new(Payload::Write);
    let path = qcow2(&guest);
    let (child, mut client) = start(&guest, &["--disk", &format!("{path},id=d,format=qcow2")]);
    wait_written(&mut client, WRITES);
    client.run("stop", json!({}));
    assert!(contents(&guest, &path) == expected());
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn a_flush_that_fails_is_told_and_the_machine_is_stopped_all_the_same() {
    let guest = Guest::new(Payload::Write);
    let path = qcow2(&guest);
    let (child, mut client) =
        start_limited(&guest, &["--disk", &format!("{path},id=d,format=qcow2")]);
    wait_written(&mut client, WRITES);
    limit_files(&child, false);
    client.run("stop", json!({}));
    let error = client.wait_for("BLOCK_IO_ERROR");
    assert_eq!(error["device"], "d", "{error}");
    assert_eq!(error["action"], "report", "{error}");
    assert_eq!(status(&mut client), "paused");
    // It can be tried again.
    limit_files(&child, true);
    client.run("stop", json!({}));
    assert!(contents(&guest, &path) == expected());
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn what_failed_waits_until_the_machine_goes_on() {
    let guest = Guest::new(Payload::Write);
    let disk = format!("{},id=d,iops=20,on-error=stop", raw(&guest));
    let (child, mut client) = start_limited(&guest, &["--disk", &disk]);
    wait_written(&mut client, 1);
    limit_files(&child, false);
    assert_eq!(client.wait_for("BLOCK_IO_ERROR")["action"], "stop");
    client.wait_for("STOP");
    assert_eq!(status(&mut client), "io-error");
    limit_files(&child, true);
    let before = written(&mut client);
    client.run("stop", json!({}));
    std::thread::sleep(WHILE);
    assert_eq!(written(&mut client), before);
    client.run("cont", json!({}));
    unlimited(&mut client);
    wait_written(&mut client, WRITES);
    client.run("stop", json!({}));
    assert!(std::fs::read(guest.path("disk")).unwrap() == expected());
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}
