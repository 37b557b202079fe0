//! Networks: guests on a bridge reach each other and their host.

use std::time::Duration;

use serde_json::json;
use strata_tests::{CMDLINE, Config, Disks, Guest, Level1, Qmp};

/// A bridge with the host's address 10.0.0.1, for frames of 9000 bytes.
const BRIDGE: &str = "modprobe bridge;ip link add br0 type bridge;ip link set br0 mtu 9000 up;\
                      ip addr add 10.0.0.1/24 dev br0";

/// MiB of the file that a guest sends.
fn data() -> u64 {
    match std::env::var_os("STRATA_TEST_LONG") {
        Some(_) => 64,
        None => 8,
    }
}

fn level1() -> Level1 {
    let level1 = Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    });
    level1.sh(BRIDGE);
    level1
}

/// Boots a guest on the bridge, with the address 10.0.0.`number`.
fn boot(level1: &Level1, number: u8) -> Guest<'_> {
    boot_with(level1, number, "")
}

/// As [`boot`], with more options of its card.
fn boot_with<'a>(level1: &'a Level1, number: u8, more: &str) -> Guest<'a> {
    let net = format!("bridge=br0,mac=52:54:00:00:00:{number:02x}{more}");
    let args = ["--net", &net, "--memory", "448M", "--qmp"];
    let socket = format!("/tmp/qmp{number}");
    let mut guest = level1.boot(&[&args[..], &[&socket]].concat()).login();
    address(&mut guest, number);
    guest
}

/// The control socket of the guest with this number.
fn control(level1: &Level1, number: u8) -> Qmp {
    let pipe = std::fs::read(env!("CARGO_BIN_EXE_unix-pipe"));
    let pipe = pipe.unwrap_or_else(|error| panic!("unix-pipe: {error}"));
    Qmp::connect(level1, &format!("/tmp/qmp{number}"), &pipe)
}

/// How many of two pings of the host arrive, in percent.
fn arriving(guest: &mut Guest<'_>) -> u64 {
    let lost = "ping -q -c 2 -W 5 10.0.0.1|sed -n 's/.* \\([0-9]*\\)% packet loss/\\1/p'";
    100 - guest.number(lost)
}

/// Whether pings of the host arrive again. The first may be lost: while the cable was out, the host
/// may have given up its neighbour.
fn arriving_again(guest: &mut Guest<'_>) -> bool {
    (0..3).any(|_| arriving(guest) == 100)
}

/// How many queue pairs level 1's kernel serves.
fn served_by_kernel(level1: &Level1) -> u64 {
    level1.number("ps|grep -c '[[]vhost-' || true")
}

fn address(guest: &mut Guest<'_>, number: u8) {
    guest.ask("ip link set eth0 up");
    guest.ask(&format!("ip addr add 10.0.0.{number}/24 dev eth0"));
}

#[test]
fn guests_on_a_bridge_reach_each_other_and_the_host() {
    let level1 = level1();
    let mut one = boot(&level1, 2);
    let mut two = boot(&level1, 3);
    assert_eq!(
        one.ask("cat /sys/class/net/eth0/address"),
        "52:54:00:00:00:02"
    );
    assert_eq!(
        one.ask("cat /sys/class/net/eth0/mtu"),
        "9000",
        "the bridge's"
    );
    for there in ["10.0.0.1", "10.0.0.3"] {
        // The second is a jumbo frame, in one piece.
        for size in [56, 8900] {
            let ping =
                format!("ping -q -c 3 -W 5 -s {size} {there}|grep -o ' 0% packet loss'|cut -c2-");
            assert_eq!(one.ask(&ping), "0% packet loss", "{size} to {there}");
        }
    }
    assert_eq!(one.complaints() + &two.complaints(), "");
    one.power_off();
    // Its tap has gone with it.
    assert_eq!(level1.sh("ls -d /sys/class/net/br0/brif/*|wc -l"), "1");
    two.power_off();
}

/// Lets a guest give and take its file over a connection. The programs have the socket itself: nc
/// between a socket and a file ends with whichever of its two directions ends first.
fn prepare(guest: &mut Guest<'_>) -> String {
    guest.ask("printf '#!/bin/sh\ncat /tmp/data\n' >/bin/give");
    guest.ask("printf '#!/bin/sh\ncat >/tmp/got\n' >/bin/take");
    guest.ask("chmod 755 /bin/give /bin/take");
    guest.ask(&format!(
        "dd if=/dev/urandom of=/tmp/data bs=1M count={} 2>/dev/null",
        data()
    ));
    guest.ask("wc -c </tmp/data;md5sum </tmp/data")
}

/// Sends a guest's file to another guest, 10.0.0.`number`; returns the bytes that arrived and their
/// checksum. However slow the host, bytes arrive in any ten seconds.
fn send(from: &mut Guest<'_>, to: &mut Guest<'_>, number: u8) -> String {
    to.ask("{ nc -l -p 9 -e take & } 2>/dev/null");
    to.ask("until netstat -ltn|grep -q :9; do usleep 100000; done");
    from.ask(&format!("{{ nc 10.0.0.{number} 9 -e give & }} 2>/dev/null"));
    let (mut arrived, mut waited) = (0, 0);
    while to.ask("test -d /proc/$! && echo runs") == "runs" {
        std::thread::sleep(Duration::from_secs(1));
        let now = to.number("stat -c %s /tmp/got");
        waited = if now > arrived { 0 } else { waited + 1 };
        arrived = now;
        assert!(waited < 10, "no more comes after {now} bytes");
    }
    to.ask("wait;wc -c </tmp/got;md5sum </tmp/got;rm /tmp/got")
}

/// Sends both ways, with large frames and with those of a common network.
fn send_all<'a>(one: &mut Guest<'a>, two: &mut Guest<'a>) {
    let expect = [prepare(one), prepare(two)];
    for mtu in [9000, 1500] {
        for guest in [&mut *one, &mut *two] {
            guest.ask(&format!("ip link set eth0 mtu {mtu}"));
        }
        assert_eq!(send(one, two, 3), expect[0], "there, MTU {mtu}");
        assert_eq!(send(two, one, 2), expect[1], "back, MTU {mtu}");
    }
}

/// Two guests send each other all, once each has done `before`, which gets its number.
fn two_send_all(level1: &Level1, more: &str, before: impl Fn(&mut Guest<'_>, u8)) {
    let mut one = boot_with(level1, 2, more);
    let mut two = boot_with(level1, 3, more);
    before(&mut one, 2);
    before(&mut two, 3);
    send_all(&mut one, &mut two);
    assert_eq!(one.complaints() + &two.complaints(), "");
    one.power_off();
    two.power_off();
}

#[test]
fn what_a_guest_sends_arrives_as_it_is() {
    two_send_all(&level1(), "", |_, _| {});
}

#[test]
fn what_a_guest_sends_arrives_as_it_is_without_offloads() {
    two_send_all(&level1(), "", |guest, number| {
        // The driver computes checksums and cuts segments by itself.
        guest.ask("rmmod virtio_net && insmod /modules/*-virtio_net.ko csum=0 gso=0");
        address(guest, number);
    });
}

#[test]
fn what_a_guest_sends_arrives_as_it_is_by_vhost() {
    let level1 = level1();
    level1.sh("modprobe vhost_net");
    two_send_all(&level1, ",vhost=on", |_, _| {
        assert_eq!(served_by_kernel(&level1), 2);
    });
}

#[test]
fn vhost_comes_and_goes_with_driver_link_pause_and_card() {
    let level1 = level1();
    level1.sh("modprobe vhost_net");
    let mut guest = boot_with(&level1, 2, ",vhost=on,queues=2,id=n");
    let mut qmp = control(&level1, 2);
    for _ in 0..5 {
        assert_eq!((arriving(&mut guest), served_by_kernel(&level1)), (100, 2));
        guest.ask("rmmod virtio_net");
        assert_eq!(served_by_kernel(&level1), 0);
        guest.ask("insmod /modules/*-virtio_net.ko");
        address(&mut guest, 2);
    }
    for _ in 0..5 {
        qmp.run("stop", json!({}));
        qmp.run("cont", json!({}));
        assert_eq!((arriving(&mut guest), served_by_kernel(&level1)), (100, 2));
    }
    // Under load, the kernel's hands and strata's take turns.
    guest.ask("ping -q -A -s 1400 10.0.0.1 >/dev/null 2>&1 & true");
    let flood = level1.spawn(&["ping", "-q", "-A", "10.0.0.2"], None);
    for _ in 0..20 {
        for up in [false, true] {
            qmp.run("set_link", json!({ "name": "n", "up": up }));
        }
    }
    guest.ask("ip link set eth0 down");
    guest.ask("ip link set eth0 up");
    assert_eq!((arriving(&mut guest), served_by_kernel(&level1)), (100, 2));
    // It goes from under the load.
    qmp.run("device_del", json!({ "id": "n" }));
    assert_eq!(qmp.wait_for("DEVICE_DELETED")["device"], "n");
    assert_eq!(served_by_kernel(&level1), 0);
    assert_eq!(level1.sh("ls /sys/class/net/br0/brif|wc -l"), "0");
    guest.ask("killall ping");
    drop(flood);
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn without_vhost_a_card_that_must_have_it_is_refused_and_others_do_without() {
    let level1 = level1();
    let args = ["strata", "run", "--kernel", "/lab/6.1/vmlinux", "--net"];
    let refused = level1.run(&[&args[..], &["bridge=br0,vhost=on"]].concat());
    assert_ne!(refused.code, 0);
    let said = refused.stderr_text();
    assert!(said.contains("modprobe vhost_net"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let mut guest = boot_with(&level1, 2, ",vhost=auto");
    assert_eq!((arriving(&mut guest), served_by_kernel(&level1)), (100, 0));
    guest.power_off();
}

#[test]
fn a_link_goes_down_and_up() {
    let level1 = level1();
    level1.sh("modprobe vhost_net");
    for vhost in ["off", "on"] {
        let mut guest = boot_with(&level1, 2, &format!(",id=n,vhost={vhost}"));
        let mut qmp = control(&level1, 2);
        let mut set = |guest: &mut Guest<'_>, up: bool| {
            qmp.run("set_link", json!({ "name": "n", "up": up }));
            let carrier = u8::from(up);
            guest.ask(&format!(
                "until [ $(cat /sys/class/net/eth0/carrier) = {carrier} ]; do usleep 10000; done"
            ));
        };
        for _ in 0..2 {
            set(&mut guest, true);
            assert!(arriving_again(&mut guest), "vhost {vhost}");
            set(&mut guest, false);
            assert_eq!(arriving(&mut guest), 0, "vhost {vhost}");
            // Whatever the driver believes of the link, nothing comes through.
            let lost = "ping -q -c 2 -W 2 10.0.0.2|grep -o '100% packet loss'";
            assert_eq!(level1.sh(lost), "100% packet loss", "vhost {vhost}");
        }
        set(&mut guest, true);
        assert!(arriving_again(&mut guest), "vhost {vhost}");
        assert_eq!(guest.complaints(), "");
        guest.power_off();
    }
}

/// The counters of a guest's only card: received and sent frames as the guest counts them, once
/// the control socket says the same.
fn counted(guest: &mut Guest<'_>, qmp: &mut Qmp) -> [u64; 2] {
    for _ in 0..50 {
        let seen = ["rx", "tx"].map(|way| {
            let file = format!("cat /sys/class/net/eth0/statistics/{way}_packets");
            guest.number(&file)
        });
        let cards = qmp.run("x-query-netstats", json!({}));
        let stats = &cards[0]["stats"];
        if [&stats["rx_packets"], &stats["tx_packets"]] == [&json!(seen[0]), &json!(seen[1])] {
            assert_eq!(
                (&stats["rx_errors"], &stats["tx_errors"]),
                (&json!(0), &json!(0))
            );
            return seen;
        }
    }
    panic!("the guest and the control socket count differently");
}

#[test]
fn a_card_is_limited_and_counted_however_it_came() {
    const PINGS: u64 = 60;
    let level1 = level1();
    let mut guest = boot_with(&level1, 2, ",id=n,pps=20");
    let mut qmp = control(&level1, 2);
    for netdev in [false, true] {
        if netdev {
            qmp.run("device_del", json!({ "id": "n" }));
            assert_eq!(qmp.wait_for("DEVICE_DELETED")["device"], "n");
            qmp.run(
                "netdev_add",
                json!({ "type": "bridge", "id": "lan", "br": "br0", "pps": 20 }),
            );
            qmp.run(
                "device_add",
                json!({ "driver": "virtio-net-pci", "id": "n", "netdev": "lan",
                        "mac": "52:54:00:00:00:02" }),
            );
            guest.ask("until test -e /sys/class/net/eth0; do usleep 100000; done");
            address(&mut guest, 2);
        }
        let before = counted(&mut guest, &mut qmp);
        let started = level1.number("awk '{print int($1*1000)}' /proc/uptime");
        // Each is sent as soon as the last is answered.
        let ping = format!("ping -A -q -c {PINGS} -W 5 10.0.0.1|grep -o ' 0% packet loss'");
        assert_eq!(guest.ask(&ping).trim(), "0% packet loss");
        let taken = level1.number("awk '{print int($1*1000)}' /proc/uptime") - started;
        // Less the burst of a tenth of a second.
        assert!(
            taken >= (PINGS - 3) * 1000 / 20,
            "{taken} ms, netdev: {netdev}"
        );
        let after = counted(&mut guest, &mut qmp);
        for (before, after) in before.into_iter().zip(after) {
            assert!(after >= before + PINGS, "{before} and then {after}");
        }
        qmp.run("set_link", json!({ "name": "n", "up": false }));
        level1.sh("ping -q -c 2 -W 1 10.0.0.2 >/dev/null; true");
        let cards = qmp.run("x-query-netstats", json!({}));
        assert_eq!(cards[0]["link"], false);
        assert!(
            cards[0]["stats"]["rx_dropped"].as_u64() > Some(0),
            "{cards}"
        );
    }
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn tagged_frames_pass_and_stay_apart() {
    let level1 = level1();
    let mut one = boot(&level1, 2);
    let mut two = boot(&level1, 3);
    // The stock kernel's driver of tags, over the network that it is for.
    level1.sh(
        "cd /tmp && for m in llc stp garp mrp 8021q; do cat $(find /lib/modules/ -name $m.ko) >$m.ko; \
         done && tar cf /tmp/vlan.tar *.ko && printf '#!/bin/sh\\ncat /tmp/vlan.tar\\n' >/bin/give && \
         chmod 755 /bin/give",
    );
    for (guest, number) in [(&mut one, 2), (&mut two, 3)] {
        let server = level1.spawn(&["nc", "-l", "-p", "9", "-e", "give"], None);
        level1.sh("until netstat -ltn|grep -q :9; do usleep 100000; done");
        guest.ask("cd /tmp;nc 10.0.0.1 9 </dev/tty >vlan.tar;tar xf vlan.tar");
        drop(server);
        guest.ask("for m in llc stp garp mrp 8021q; do insmod $m.ko; done;cd");
        for tag in [7, 8] {
            guest.ask(&format!(
                "ip link add link eth0 name eth0.{tag} type vlan id {tag}"
            ));
            guest.ask(&format!("ip link set eth0.{tag} up"));
        }
        guest.ask(&format!("ip addr add 10.7.0.{number}/24 dev eth0.7"));
    }
    // What has another tag is another network; two answers on each for its own address there.
    two.ask("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore");
    two.ask("ip addr add 10.8.0.3/24 dev eth0.8");
    one.ask("ip addr add 10.8.0.2/24 dev eth0.7");
    let ping = |size: u32, there: &str| {
        format!("ping -q -c 2 -W 5 -s {size} {there}|grep -o ' [0-9]*% packet loss'|cut -c2-")
    };
    for size in [56, 8900] {
        assert_eq!(one.ask(&ping(size, "10.7.0.3")), "0% packet loss", "{size}");
    }
    assert_eq!(one.ask(&ping(56, "10.8.0.3")), "100% packet loss");
    assert_eq!(one.complaints() + &two.complaints(), "");
    one.power_off();
    two.power_off();
}

#[test]
fn a_flood_of_small_frames_leaves_the_console_alive() {
    let level1 = level1();
    let mut guest = boot(&level1, 2);
    let received =
        |guest: &mut Guest<'_>| guest.number("cat /sys/class/net/eth0/statistics/rx_packets");
    let before = received(&mut guest);
    // Sixteen that each send the next frame as soon as the last one is answered.
    level1.sh(
        "for n in $(seq 16); do ping -A -s 18 10.0.0.2 >/dev/null 2>&1 & echo $! >>/tmp/flood; done",
    );
    let mut round = 0;
    while round < 5 || received(&mut guest) - before < 1000 {
        assert!(round < 1000, "no flood comes");
        assert_eq!(
            guest.ask(&format!("echo alive {round}")),
            format!("alive {round}")
        );
        round += 1;
    }
    // They were at it all the time.
    level1.sh("kill $(cat /tmp/flood)");
    // Whoever was flooded still talks.
    assert_eq!(
        guest.ask("ping -q -c 3 -W 5 10.0.0.1|grep -o ' 0% packet loss'|cut -c2-"),
        "0% packet loss"
    );
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn two_queue_pairs_serve_two_cpus() {
    let level1 = level1();
    let net = "bridge=br0,queues=2,mac=52:54:00:00:00:02";
    let mut guest = level1.boot(&["--net", net, "--cpus", "2"]).login();
    address(&mut guest, 2);
    assert_eq!(
        guest.number("ls -d /sys/class/net/eth0/queues/rx-*|wc -l"),
        2
    );
    let interrupts = |guest: &mut Guest<'_>, queue| {
        guest.number(&format!(
            "awk '/virtio0-input.{queue}/ {{ print $2 + $3 }}' /proc/interrupts"
        ))
    };
    let before = [0, 1].map(|queue| interrupts(&mut guest, queue));
    // Each flow has its queue, and of so many, both have some. The guest refuses all of them.
    level1.sh("for n in $(seq 40); do nc 10.0.0.2 9 </dev/null 2>/dev/null & done; wait");
    for (queue, before) in before.into_iter().enumerate() {
        let now = interrupts(&mut guest, queue);
        assert!(now > before, "queue {queue}: {now} interrupts");
    }
    assert_eq!(
        guest.ask("ping -q -c 3 -W 5 10.0.0.1|grep -o ' 0% packet loss'|cut -c2-"),
        "0% packet loss"
    );
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn iperf3_runs_between_guests_that_boot_from_disks() {
    iperf3("off");
}

#[test]
fn iperf3_runs_by_vhost() {
    iperf3("on");
}

fn iperf3(vhost: &str) {
    let level1 = level1();
    level1.sh("modprobe vhost_net");
    let disks = Disks::new(&level1);
    let mut guests = Vec::new();
    for number in [2, 3] {
        let name = format!("{number}.qcow2");
        disks.overlay(&name, "base.raw", "raw");
        let net = format!("bridge=br0,mac=52:54:00:00:00:{number:02x},vhost={vhost}");
        let more = ["--net", &net, "--memory", "256M"];
        let mut guest = disks
            .boot_with(&name, "qcow2", ",backing=on", &more)
            .login();
        let name = guest.ask("ls -d /sys/class/net/e*|sed 's|.*/||'");
        guest.ask(&format!("ip link set {name} up"));
        guest.ask(&format!("ip addr add 10.0.0.{number}/24 dev {name}"));
        guests.push(guest);
    }
    if let [one, two] = guests.as_mut_slice() {
        two.ask("iperf3 -s -D;until ss -ltn|grep -q :5201; do sleep 0.1; done");
        for direction in ["", "-R"] {
            // MiB that have arrived, says who received them; the last blocks may not be counted.
            let arrived = one.number(&format!(
                "iperf3 -c 10.0.0.3 -n 32M -f M {direction}|awk '/receiver/ {{ print int($5) }}'"
            ));
            assert!((30..=32).contains(&arrived), "{direction}: {arrived}");
        }
        assert_eq!(one.complaints() + &two.complaints(), "");
    }
    for guest in guests {
        guest.power_off();
    }
}

/// Places a program of this host's, with its libraries, where `strata` looks for it in level 1.
fn put_program(level1: &Level1, path: &str) {
    let libraries = std::process::Command::new("ldd").arg(path).output();
    let libraries = libraries.unwrap_or_else(|error| panic!("ldd: {error}"));
    let text = String::from_utf8_lossy(&libraries.stdout);
    let files = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in files.chain([path]) {
        let bytes = std::fs::read(file);
        let bytes = bytes.unwrap_or_else(|error| panic!("{file}: {error}; install passt"));
        level1.sh(&format!("mkdir -p $(dirname {file})"));
        level1.put(file, 0o755, &bytes);
    }
}

#[test]
fn user_networking_leads_ports_in_and_connections_out() {
    let level1 = level1();
    put_program(&level1, "/usr/bin/passt");
    // passt gives the guest the host's address and gateway, continues as nobody, and moves to an
    // empty root, which a process can do whose root is a mount: an initramfs is none.
    level1.sh(
        "ip route add default via 10.0.0.254 dev br0; mkdir -p /etc /r; \
         echo nobody:x:65534:65534::/:/bin/false >/etc/passwd",
    );
    let strata = "strata run --kernel /lab/6.1/vmlinux --initrd /lab/6.1/initrd \
                  --net user,hostfwd=tcp::2222-:22 --cmdline";
    let run = format!(
        "export PATH=$PATH:/usr/bin CMDLINE='{CMDLINE}'; exec unshare -m sh -c 'mount --rbind / /r; \
         cd /r; mount --move . /; exec chroot . {strata} \"$CMDLINE\"'"
    );
    let process = level1.spawn(&["sh", "-c", &run], None);
    let mut guest = Guest::attach(&level1, process).login();
    guest.ask("ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up");
    guest.ask("ip route add default via 10.0.0.254");
    // In: by the host's port. nc's programs have the socket itself, as above.
    guest.ask("printf '#!/bin/sh\ncat /tmp/data\n' >/bin/give; chmod 755 /bin/give");
    guest.ask("dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null");
    guest.ask("{ nc -l -p 22 -e give & } 2>/dev/null");
    guest.ask("until netstat -ltn|grep -q :22; do usleep 100000; done");
    let sum = guest.ask("md5sum </tmp/data");
    assert_eq!(level1.sh("nc 127.0.0.1 2222 </dev/null|md5sum"), sum, "in");
    // Out: the gateway stands for the host's own address.
    level1.sh(
        "printf '#!/bin/sh\ncat /tmp/data\n' >/bin/give; chmod 755 /bin/give; \
         dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null",
    );
    let server = level1.spawn(&["nc", "-l", "-p", "9", "-e", "give"], None);
    level1.sh("until netstat -ltn|grep -q :9; do usleep 100000; done");
    let sum = level1.sh("md5sum </tmp/data");
    assert_eq!(guest.ask("nc 10.0.0.254 9 </dev/tty|md5sum"), sum, "out");
    drop(server);
    assert_eq!(guest.complaints(), "");
    guest.power_off();
    // passt ends with its guest.
    level1.sh("while pidof passt; do usleep 100000; done");
}
