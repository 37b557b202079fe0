//! The control socket: machines that are looked at, paused, and changed while they run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Guest, Machine, Payload, Qmp, finish, piped, start};
use serde_json::{Value, json};

/// A file of `size` bytes to make a disk of.
fn disk(guest: &Guest, name: &str, size: u64) -> String {
    let path = guest.path(name);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What a process holds of the host's, by kind: descriptors by what they are, threads, mappings.
fn holdings(child: &Machine) -> BTreeMap<String, usize> {
    let proc = |name: &str| format!("/proc/{}/{name}", child.id());
    let mut held = BTreeMap::new();
    for fd in fs::read_dir(proc("fd")).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        *held
            .entry(target.split(':').next().unwrap().to_owned())
            .or_default() += 1;
    }
    let threads = fs::read_dir(proc("task")).unwrap().count();
    held.insert("threads".to_owned(), threads);
    held
}

#[test]
fn a_balloon_is_set_by_what_the_guest_keeps() {
    let guest = Guest::new(Payload::Spin);
    let (_child, mut client) = start(&guest, &["--balloon", "0"]);
    let all = 16 << 20;
    assert_eq!(
        client.run("query-balloon", json!({})),
        json!({ "actual": all })
    );
    for bytes in [all / 2, all, 1] {
        client.run("balloon", json!({ "value": bytes }));
    }
    for bytes in [0, all + 1] {
        let answer = client.ask("balloon", json!({ "value": bytes }));
        assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
    }
    // No driver of this guest's has given anything.
    assert_eq!(
        client.run("query-balloon", json!({})),
        json!({ "actual": all })
    );
    let without = Guest::new(Payload::Spin);
    let (_child, mut client) = start(&without, &[]);
    for (command, arguments) in [
        ("query-balloon", json!({})),
        ("balloon", json!({ "value": 1 })),
    ] {
        let answer = client.ask(command, arguments);
        assert_eq!(answer["error"]["class"], "DeviceNotActive", "{answer}");
    }
}

#[test]
fn a_machine_is_paused_goes_on_and_ends() {
    let guest = Guest::new(Payload::Spin);
    let (child, mut client) = start(&guest, &["--cpus", "2"]);
    let mode = fs::metadata(guest.path("qmp"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let running = json!({ "running": true, "status": "running" });
    assert_eq!(client.run("query-status", json!({})), running);
    let mut other = Qmp::connect(&guest.path("qmp"));
    for _ in 0..2 {
        client.run("stop", json!({}));
        let paused = json!({ "running": false, "status": "paused" });
        assert_eq!(client.run("query-status", json!({})), paused);
        let before = cpu_time(&child);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(cpu_time(&child) - before <= 2, "a paused guest runs");
        client.run("stop", json!({}));
        client.run("cont", json!({}));
        client.run("cont", json!({}));
        assert_eq!(client.run("query-status", json!({})), running);
        for client in [&mut client, &mut other] {
            assert_eq!(client.wait_for("STOP"), Value::Null);
            client.wait_for("RESUME");
        }
    }
    let cpus = client.run("query-cpus-fast", json!({}));
    assert_eq!(cpus.as_array().unwrap().len(), 2);
    let thread = cpus[1]["thread-id"].as_u64().unwrap();
    let comm = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", child.id()));
    assert_eq!(comm.unwrap(), "vcpu1\n");

    client.run("quit", json!({}));
    for client in [&mut client, &mut other] {
        let end = client.wait_for("SHUTDOWN");
        assert_eq!(end, json!({ "guest": false, "reason": "host-qmp-quit" }));
        client.wait_for_end();
    }
    assert_eq!(child.code(), Some(0));
    assert!(!guest.path("qmp").exists());
}

/// User and system time of a process, in ticks of 10 ms (proc(5), /proc/pid/stat).
fn cpu_time(child: &Machine) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn the_end_is_told_with_its_reason() {
    let button = Guest::new(Payload::Button);
    let (mut child, mut client) = start(&button, &[]);
    child.wait_for("listening");
    client.run("system_powerdown", json!({}));
    client.wait_for("POWERDOWN");
    let end = client.wait_for("SHUTDOWN");
    assert_eq!(end, json!({ "guest": true, "reason": "guest-shutdown" }));
    assert_eq!(child.code(), Some(0));

    let halted = Guest::new(Payload::Halt);
    let (child, mut client) = start(&halted, &[]);
    // SAFETY: it only sends a signal, to a process that is ours and not yet waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGHUP) }, 0);
    let end = client.wait_for("SHUTDOWN");
    assert_eq!(end, json!({ "guest": false, "reason": "host-signal" }));
    assert_eq!(child.code(), Some(143));
}

#[test]
fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
    let guest = Guest::new(Payload::Halt);
    drop(std::os::unix::net::UnixListener::bind(guest.path("qmp")).unwrap());
    let (child, mut client) = start(&guest, &[]);
    let mut second = guest.run(&[]);
    second.arg("--qmp").arg(guest.path("qmp"));
    let output = finish(second);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("control socket"), "{stderr}");
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn what_is_plugged_in_and_out_two_hundred_times_leaves_nothing() {
    let guest = Guest::new(Payload::Eject);
    let (child, mut client) = start(&guest, &[]);
    let (one, two) = (disk(&guest, "one", 1 << 20), disk(&guest, "two", 1 << 20));
    let mut before = BTreeMap::new();
    for round in 0..200 {
        if round == 2 {
            before = holdings(&child);
        }
        client.run(
            "blockdev-add",
            json!({ "node-name": "n", "driver": "raw",
                    "file": { "driver": "file", "filename": one } }),
        );
        for arguments in [
            json!({ "driver": "virtio-blk-pci", "id": "d1", "drive": "n" }),
            json!({ "driver": "virtio-blk-pci", "id": "d2", "path": two, "queues": 4 }),
            json!({ "driver": "virtio-rng-pci", "id": "r" }),
        ] {
            client.run("device_add", arguments);
        }
        for id in ["d1", "d2", "r"] {
            client.run("device_del", json!({ "id": id }));
            let data = client.wait_for("DEVICE_DELETED");
            assert_eq!(
                data,
                json!({ "device": id, "path": format!("/machine/peripheral/{id}") })
            );
        }
        client.run("blockdev-del", json!({ "node-name": "n" }));
    }
    assert_eq!(holdings(&child), before);
    assert_eq!(client.run("query-block", json!({})), json!([]));
    assert_eq!(
        client.run("query-pci", json!({}))[0]["devices"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn what_is_on_the_bus_is_told_with_its_regions() {
    let guest = Guest::new(Payload::Eject);
    let (child, mut client) = start(&guest, &["--rng=on"]);
    let answer = client.run("query-pci", json!({}));
    let devices = answer[0]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[0]["regions"], json!([]), "the host bridge");
    assert_eq!(devices[1]["qdev_id"], "rng");
    let regions = devices[1]["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 1);
    let size = regions[0]["size"].as_u64().unwrap();
    assert!(size.is_power_of_two() && size >= 4096, "{size}");
    // No driver of this guest's has switched it on.
    assert_eq!(
        regions[0],
        json!({ "bar": 0, "type": "memory", "address": -1, "size": size,
                "prefetch": false, "mem_type_64": true })
    );
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
    let off = Guest::new(Payload::Eject);
    let (_child, mut client) = start(&off, &["--rng", "off"]);
    let devices = client.run("query-pci", json!({}));
    assert_eq!(devices[0]["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn what_can_not_be_had_is_refused_in_a_sentence() {
    let guest = Guest::new(Payload::Eject);
    let (root, other) = (
        disk(&guest, "root", 1 << 20),
        disk(&guest, "other", 1 << 20),
    );
    let (child, mut client) = start(&guest, &["--disk", &format!("{root},id=root")]);
    client.run(
        "blockdev-add",
        json!({ "node-name": "f", "driver": "file", "filename": other }),
    );
    client.run(
        "blockdev-add",
        json!({ "node-name": "n", "driver": "raw", "file": "f" }),
    );
    client.run(
        "device_add",
        json!({ "driver": "virtio-blk-pci", "id": "d", "drive": "n" }),
    );
    for (name, arguments, needle) in [
        ("device_add", json!({}), "'driver' is missing"),
        (
            "device_add",
            json!({ "driver": "e1000", "id": "x" }),
            "virtio-net-pci",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci" }),
            "'id' is missing",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "../x", "path": other }),
            "letter",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "root", "path": other }),
            "root",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "path": root }),
            "in use by another",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "path": "/missing" }),
            "/missing",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "drive": "missing" }),
            "missing",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "drive": "n" }),
            "in use by d",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "drive": "n", "path": "y" }),
            "'path'",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "path": other, "speed": 1 }),
            "`speed`",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "path": other, "queues": 65 }),
            "1 to 64",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": "x", "path": other, "bus": "usb.0" }),
            "pcie.0",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-net-pci", "id": "x" }),
            "one of bridge",
        ),
        (
            "device_add",
            json!({ "driver": "virtio-net-pci", "id": "x", "netdev": "missing" }),
            "missing",
        ),
        ("device_del", json!({ "id": "missing" }), "missing"),
        (
            "blockdev-add",
            json!({ "driver": "raw", "file": "f" }),
            "'node-name'",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "n", "driver": "raw", "file": "f" }),
            "n",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "m", "driver": "raw", "file": "f" }),
            "in use by n",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "m", "driver": "vmdk", "file": "f" }),
            "vmdk",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "m", "driver": "raw", "file": "n" }),
            "image",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "m", "driver": "raw" }),
            "'file'",
        ),
        (
            "blockdev-add",
            json!({ "node-name": "m", "driver": "file", "filename": "/missing" }),
            "/missing",
        ),
        ("blockdev-del", json!({ "node-name": "n" }), "in use by d"),
        ("blockdev-del", json!({ "node-name": "f" }), "in use by n"),
        ("blockdev-del", json!({ "node-name": "missing" }), "missing"),
        (
            "block_resize",
            json!({ "device": "missing", "size": 1 }),
            "missing",
        ),
        (
            "block_resize",
            json!({ "device": "root", "size": 513 }),
            "512",
        ),
        ("block_resize", json!({ "size": 512 }), "name a device"),
        (
            "netdev_add",
            json!({ "type": "tap", "id": "t" }),
            "one of bridge",
        ),
        (
            "netdev_add",
            json!({ "type": "tap", "id": "t", "ifname": "a", "script": "/x" }),
            "scripts",
        ),
        (
            "netdev_add",
            json!({ "type": "vde", "id": "t" }),
            "tap, bridge and user",
        ),
        ("netdev_del", json!({ "id": "t" }), "'t'"),
        ("set_link", json!({ "name": "t", "up": true }), "'t'"),
        ("stop", json!({ "now": true }), "`now`"),
    ] {
        let desc = client.refused(name, arguments.clone());
        assert!(desc.contains(needle), "{name} {arguments}: {desc}");
    }
    let removed = client.run("query-pci", json!({}));
    assert_eq!(
        removed[0]["devices"].as_array().unwrap().len(),
        3,
        "nothing was left over"
    );
    // What the machine started with can go, too.
    client.run("device_del", json!({ "id": "root" }));
    assert_eq!(client.wait_for("DEVICE_DELETED")["device"], "root");
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn disks_say_what_they_are_and_take_limits_and_sizes() {
    let guest = Guest::new(Payload::Eject);
    let root = disk(&guest, "root", 1 << 20);
    let (child, mut client) = start(
        &guest,
        &[
            "--disk",
            &format!("{root},id=root,readonly"),
            "--disk",
            &disk(&guest, "b", 1 << 20),
        ],
    );
    let blocks = client.run("query-block", json!({}));
    assert_eq!(blocks[0]["device"], "root");
    assert_eq!(blocks[0]["inserted"]["ro"], true);
    assert_eq!(blocks[0]["inserted"]["image"]["virtual-size"], 1 << 20);
    let zero = json!({ "id": "disk1", "bps": 0, "bps_rd": 0, "bps_wr": 0,
                       "iops": 0, "iops_rd": 0, "iops_wr": 0 });
    let mut limits = zero.clone();
    limits["iops"] = json!(100);
    client.run("block_set_io_throttle", limits.clone());
    limits["bps_rd"] = json!(1);
    client.refused("block_set_io_throttle", limits);
    client.run(
        "block_resize",
        json!({ "device": "disk1", "size": 2 << 20 }),
    );
    client.refused("block_resize", json!({ "device": "root", "size": 2 << 20 }));
    let blocks = client.run("query-block", json!({}));
    assert_eq!(blocks[1]["inserted"]["iops"], 100);
    assert_eq!(blocks[1]["inserted"]["image"]["virtual-size"], 2 << 20);
    assert_eq!(
        client.run("query-blockstats", json!({}))[1]["stats"]["rd_bytes"],
        0
    );
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn cards_say_the_same_of_themselves_however_they_came() {
    let guest = Guest::new(Payload::Eject);
    let path = guest.path("qmp");
    // Taps of their own, gone with the network that they are in.
    let run = guest.run(&["--net", "tap=t0,id=cold,bps=1M,pps=500,mtu=1400,queues=2"]);
    let mut command = Command::new("unshare");
    command.arg("--net").arg(run.get_program());
    command.args(run.get_args()).stdin(Stdio::null());
    command.arg("--qmp").arg(format!("unix={}", path.display()));
    let child = piped(command);
    let mut client = Qmp::connect(&path);
    client.run(
        "netdev_add",
        json!({ "type": "tap", "id": "end", "ifname": "t1", "queues": 2,
                "bps": 1_048_576, "pps": 500 }),
    );
    for arguments in [
        json!({ "driver": "virtio-net-pci", "id": "hot", "netdev": "end", "host_mtu": 1400 }),
        json!({ "driver": "virtio-net-pci", "id": "own", "tap": "t2", "bps": "1M", "pps": "500",
                "mtu": "1400", "queues": "2" }),
        json!({ "driver": "virtio-net-pci", "id": "free", "tap": "t3", "mac": "random" }),
    ] {
        client.run("device_add", arguments);
    }
    client.run("set_link", json!({ "name": "own", "up": false }));
    let cards = client.run("x-query-netstats", json!({}));
    let (limit, none) = (
        json!({ "bps": 1 << 20, "pps": 500 }),
        json!({ "bps": 0, "pps": 0 }),
    );
    let mut macs = BTreeSet::new();
    for (card, (id, netdev, ifname, up, limit)) in cards.as_array().unwrap().iter().zip([
        ("cold", Value::Null, "t0", true, &limit),
        ("hot", json!("end"), "t1", true, &limit),
        ("own", Value::Null, "t2", false, &limit),
        ("free", Value::Null, "t3", true, &none),
    ]) {
        let mac = card["mac"].as_str().unwrap();
        assert!(mac.starts_with("52:54:00:"), "{mac}");
        macs.insert(mac);
        // What the host sends by itself has to wait for a driver.
        let stats = json!({
            "rx_bytes": 0, "rx_packets": 0, "rx_errors": 0, "rx_dropped": 0,
            "tx_bytes": 0, "tx_packets": 0, "tx_errors": 0, "tx_dropped": 0,
        });
        let expected = json!({
            "device": id, "qdev": format!("/machine/peripheral/{id}"), "netdev": netdev,
            "ifname": ifname, "vhost": false, "mac": mac, "link": up,
            "rx-limit": limit, "tx-limit": limit, "stats": stats,
        });
        assert_eq!(card, &expected);
    }
    assert_eq!(macs.len(), 4, "{cards}");
    let refusals = [
        ("pps", json!(0), "leave it out"),
        ("bps", json!("fast"), "number"),
        ("vhost", json!(true), "vhost knows no limits"),
    ];
    for (key, value, words) in refusals {
        let mut arguments = json!({ "driver": "virtio-net-pci", "id": "x", "tap": "t4", "pps": 1 });
        arguments[key] = value;
        let said = client.refused("device_add", arguments.clone());
        assert!(said.contains(words), "{said}");
        // The host's end alone says the same.
        arguments.as_object_mut().unwrap().remove("driver");
        arguments["type"] = json!("tap");
        assert_eq!(client.refused("netdev_add", arguments), said);
    }
    let names = client.run("query-commands", json!({}));
    assert!(
        names
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "x-query-netstats" }))
    );
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

#[test]
fn without_slots_nothing_comes_or_goes() {
    let guest = Guest::new(Payload::Eject);
    let path = guest.path("qmp");
    let mut command = guest.run(&["--rng"]);
    command.arg("--qmp").arg(format!(
        "unix:{},server=on,wait=off,hotplug=off",
        path.display()
    ));
    let child = piped(command);
    let mut client = Qmp::connect(&path);
    for (name, arguments) in [
        (
            "device_add",
            json!({ "driver": "virtio-rng-pci", "id": "x" }),
        ),
        ("device_del", json!({ "id": "rng" })),
    ] {
        assert!(client.refused(name, arguments).contains("no hot-plug"));
    }
    client.run("quit", json!({}));
    assert_eq!(child.code(), Some(0));
}

/// QEMU's own client library, from Python's package index, beside the build.
fn client_library() -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu.qmp-0.0.3");
    if !dir.join("qemu/qmp").is_dir() {
        let pip = ["-m", "pip", "install", "-q", "--no-deps", "--target"];
        let installed = Command::new("python3")
            .args(pip)
            .arg(&dir)
            .arg("qemu.qmp==0.0.3")
            .status();
        assert!(installed.unwrap().success(), "pip can not install qemu.qmp");
    }
    dir
}

#[test]
fn qemus_own_client_library_works() {
    let guest = Guest::new(Payload::Eject);
    let (child, mut client) = start(&guest, &[]);
    let mut script = Command::new("python3");
    script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qmp_client.py"));
    script
        .arg(guest.path("qmp"))
        .arg(disk(&guest, "disk", 1 << 20));
    let output = finish(script_with(script, &client_library()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    client.wait_for("SHUTDOWN");
    assert_eq!(child.code(), Some(0));
}

fn script_with(mut script: Command, library: &Path) -> Command {
    script.env("PYTHONPATH", library);
    script
}
