//! Hot-plug: stock guests to which disks and networks come while they work, and from which they go.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use strata_tests::{Config, Disks, Guest, Level1, Qmp};

const SOCKET: &str = "/tmp/qmp";

/// How long a guest has for a device, on a host under load.
const PATIENCE: Duration = Duration::from_secs(90);

/// What one disk may have for its slow requests: fewer than come and go.
const SLOW_THREADS: u64 = 4;

/// How often a device comes and goes.
const CYCLES: usize = 20;

fn level1() -> Level1 {
    Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    })
}

fn connect(level1: &Level1) -> Qmp {
    let pipe = std::fs::read(env!("CARGO_BIN_EXE_unix-pipe"));
    let pipe = pipe.unwrap_or_else(|error| panic!("unix-pipe: {error}"));
    Qmp::connect(level1, SOCKET, &pipe)
}

/// Waits until `condition` holds in the guest.
fn until(guest: &mut Guest<'_>, condition: &str) {
    let deadline = Instant::now() + PATIENCE;
    while guest.ask(&format!("{condition}; echo $?")) != "0" {
        if Instant::now() > deadline {
            let log = guest.ask("dmesg|tail -n 30; cat /proc/interrupts");
            panic!("{condition} never holds in the guest:\n{log}");
        }
    }
}

/// How many writes a disk has served.
fn writes(qmp: &mut Qmp, id: &str) -> u64 {
    let path = format!("/machine/peripheral/{id}");
    let disks = qmp.run("query-blockstats", json!({}));
    let mut disks = disks.as_array().into_iter().flatten();
    let disk = disks.find(|disk| disk["qdev"] == path.as_str());
    let writes = disk.and_then(|disk| disk["stats"]["wr_operations"].as_u64());
    writes.unwrap_or_else(|| panic!("no disk {id}"))
}

/// What `strata` holds in level 1: descriptors, and threads without those for slow requests, of
/// which a disk under load may get another one at any time.
fn holdings(level1: &Level1) -> String {
    level1.sh("cd /proc/$(pidof strata); ls fd|wc -l; cat task/*/comm|grep -vc blk-slow")
}

/// Threads for slow requests, of which each disk has at most [`SLOW_THREADS`].
fn slow_threads(level1: &Level1) -> u64 {
    level1.number("cat /proc/$(pidof strata)/task/*/comm|grep -c blk-slow || true")
}

#[test]
fn disks_come_and_go_under_load() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("root.raw");
    let path = disks.path("plugged.qcow2");
    level1.sh(&format!("strata-img create -q -f qcow2 {path} 64M"));
    let mut guest = disks
        .boot_with("root.raw", "raw", "", &["--qmp", SOCKET])
        .login();
    let mut qmp = connect(&level1);
    guest.ask(
        "(while :; do dd if=/dev/urandom of=/load bs=64k count=64 conv=fsync; done) 2>/dev/null & load=$!",
    );
    let mut before = String::new();
    for cycle in 0..CYCLES {
        if cycle == 2 {
            before = holdings(&level1);
        }
        qmp.run(
            "blockdev-add",
            json!({ "node-name": "n", "driver": "qcow2",
                    "file": { "driver": "file", "filename": path } }),
        );
        let device = json!({ "driver": "virtio-blk-pci", "id": "d", "drive": "n" });
        qmp.run("device_add", device);
        until(&mut guest, "[ -b /dev/vdb ]");
        let written = guest.ask(
            "dd if=/dev/urandom of=/tmp/x bs=64k count=16 2>/dev/null; \
             dd if=/tmp/x of=/dev/vdb bs=64k conv=fsync 2>/dev/null; \
             echo 3 >/proc/sys/vm/drop_caches; \
             dd if=/dev/vdb bs=64k count=16 2>/dev/null|cmp - /tmp/x; echo $?",
        );
        assert_eq!(written, "0", "cycle {cycle}");
        // Every other time it goes from under a program that writes to it. That program must not
        // make a file in its place.
        if cycle % 2 == 1 {
            guest.ask(
                "dd if=/dev/zero of=/dev/vdb bs=64k oflag=direct conv=nocreat 2>/dev/null & true",
            );
            let before = writes(&mut qmp, "d");
            while writes(&mut qmp, "d") < before + 20 {
                sleep(Duration::from_millis(10));
            }
        }
        qmp.run("device_del", json!({ "id": "d" }));
        assert_eq!(qmp.wait_for("DEVICE_DELETED")["device"], "d");
        until(&mut guest, "[ ! -e /sys/block/vdb ]");
        qmp.run("blockdev-del", json!({ "node-name": "n" }));
        assert_eq!(
            level1.sh(&format!(
                "strata-img check -f qcow2 {path} >/tmp/check 2>&1 || cat /tmp/check"
            )),
            "",
            "cycle {cycle}"
        );
    }
    assert_eq!(holdings(&level1), before);
    let slow = slow_threads(&level1);
    assert!(slow <= SLOW_THREADS, "{slow} of the one disk that is left");
    // The loop's last writer outlives it.
    assert_eq!(
        guest.ask(
            "kill $load; wait; while pidof dd >/dev/null; do sleep 0.1; done; sync; \
             mount -o remount,ro /; echo $?"
        ),
        "0"
    );
    guest.power_off();
    assert_eq!(disks.faults("root.raw", "raw"), "");
}

#[test]
fn networks_come_and_go_under_load() {
    let level1 = level1();
    level1.sh(
        "modprobe bridge;ip link add br0 type bridge;ip link set br0 up;ip addr add 10.0.0.1/24 dev br0",
    );
    // The bus has nothing on it when the guest boots.
    let mut guest = level1.boot(&["--qmp", SOCKET]).login();
    let mut qmp = connect(&level1);
    let mut before = String::new();
    for cycle in 0..CYCLES {
        if cycle == 2 {
            before = holdings(&level1);
        }
        qmp.run(
            "netdev_add",
            json!({ "type": "bridge", "id": "lan", "br": "br0" }),
        );
        qmp.run(
            "device_add",
            json!({ "driver": "virtio-net-pci", "id": "n", "netdev": "lan",
                    "mac": "52:54:00:00:00:02" }),
        );
        until(&mut guest, "[ -e /sys/class/net/eth0 ]");
        guest.ask("ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0");
        let ping = "ping -q -c 2 -W 5 10.0.0.1|grep -o ' 0% packet loss'|cut -c2-";
        assert_eq!(guest.ask(ping), "0% packet loss", "cycle {cycle}");
        if cycle == 0 {
            qmp.run("set_link", json!({ "name": "n", "up": false }));
            until(&mut guest, "[ $(cat /sys/class/net/eth0/carrier) = 0 ]");
            qmp.run("set_link", json!({ "name": "lan", "up": true }));
            until(&mut guest, "[ $(cat /sys/class/net/eth0/carrier) = 1 ]");
        }
        // It goes from under frames of both directions.
        guest.ask("ping -q -A -s 1400 10.0.0.1 >/dev/null 2>&1 & true");
        let flood = level1.spawn(
            &["ping", "-q", "-A", "-c", "50", "-w", "3", "10.0.0.2"],
            None,
        );
        qmp.run("device_del", json!({ "id": "n" }));
        assert_eq!(qmp.wait_for("DEVICE_DELETED")["device"], "n");
        until(&mut guest, "[ ! -e /sys/class/net/eth0 ]");
        guest.ask("killall ping");
        drop(flood);
        qmp.run("netdev_del", json!({ "id": "lan" }));
        assert_eq!(level1.sh("ls /sys/class/net/br0/brif|wc -l"), "0");
    }
    assert_eq!(holdings(&level1), before);
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}
