//! The programs that are measured, and how each is given a disk or a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use programs::{QEMU_PROGRAM, STRATA, on_path, qemu, qemu_firmware, upload, words};
use strata_lab::Upload;

use crate::work::Needs;

/// A program with one way to serve one device.
pub(crate) struct Setup {
    /// For the table.
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) files: Vec<Upload>,
}

/// Before a network is used: a bridge with the host's address.
pub(crate) const PREPARE: &str = "modprobe tun; modprobe vhost_net; modprobe bridge; \
    ip link add br0 type bridge; ip addr add 10.0.0.1/24 dev br0; ip link set br0 up";

const QEMU_DISK: &str = "-object iothread,id=t -device virtio-blk-pci,drive=d,iothread=t,\
    disable-legacy=on -blockdev driver=file,node-name=f,aio=io_uring,filename=";

const QEMU_TAP: &str = "-device virtio-net-pci,netdev=n,disable-legacy=on,romfile= \
    -netdev tap,id=n,script=/firmware/tap-up,downscript=no,vhost=";

/// The bytes of the disk: what a guest reads first and last of it is there.
const DISK_SIZE: usize = 8 << 20;

/// All that can be measured: strata, and QEMU if it is there.
pub(crate) fn setups(strata: &Path, strata_img: &Path) -> Result<Vec<Setup>, String> {
    let raw = vec![0x5a; DISK_SIZE];
    let qcow2 = qcow2_of(&raw, strata_img)?;
    let strata_with = |name, needs, more: &str, files| Setup {
        name,
        needs,
        program: strata.to_owned(),
        args: words(&format!("{STRATA} {more}")),
        files,
    };
    let disk = |bytes: &[u8]| vec![upload("/root/disk", 0o644, bytes.to_vec())];
    let mut setups = vec![
        strata_with(
            "strata, raw",
            Needs::Disk,
            "--disk /root/disk,format=raw",
            disk(&raw),
        ),
        strata_with(
            "strata, qcow2",
            Needs::Disk,
            "--disk /root/disk,format=qcow2",
            disk(&qcow2),
        ),
        strata_with("strata", Needs::Net, "--net bridge=br0", Vec::new()),
        strata_with(
            "strata, vhost",
            Needs::Net,
            "--net bridge=br0,vhost=on",
            Vec::new(),
        ),
    ];
    let Some(program) = on_path(QEMU_PROGRAM) else {
        eprintln!("devices: {QEMU_PROGRAM} is not on the path, strata is measured alone");
        return Ok(setups);
    };
    // Its script puts a tap on the bridge.
    let tap_up = b"#!/bin/sh\nip link set $1 master br0 up\n".to_vec();
    let mut firmware = qemu_firmware()?;
    firmware.push(upload("/firmware/tap-up", 0o755, tap_up));
    let machine = qemu(true);
    let qemu_with = |name, needs, more: &str, files: Vec<Upload>| Setup {
        name,
        needs,
        program: program.clone(),
        args: words(&format!("{machine} {more}")),
        files: [files, firmware.clone()].concat(),
    };
    let blockdev =
        |format| format!("{QEMU_DISK}/root/disk -blockdev driver={format},file=f,node-name=d");
    setups.extend([
        qemu_with("QEMU, raw", Needs::Disk, &blockdev("raw"), disk(&raw)),
        qemu_with("QEMU, qcow2", Needs::Disk, &blockdev("qcow2"), disk(&qcow2)),
        qemu_with("QEMU", Needs::Net, &format!("{QEMU_TAP}off"), Vec::new()),
        qemu_with(
            "QEMU, vhost",
            Needs::Net,
            &format!("{QEMU_TAP}on"),
            Vec::new(),
        ),
    ]);
    Ok(setups)
}

/// The same disk as qcow2, every cluster allocated.
fn qcow2_of(raw: &[u8], strata_img: &Path) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| format!("make a qcow2 disk: {error}");
    let dir = tempfile::tempdir().map_err(words)?;
    let (from, to) = (dir.path().join("raw"), dir.path().join("qcow2"));
    fs::write(&from, raw).map_err(words)?;
    let status = Command::new(strata_img)
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&from, &to])
        .status()
        .map_err(words)?;
    if !status.success() {
        return Err(format!("{} convert: {status}", strata_img.display()));
    }
    fs::read(&to).map_err(words)
}
