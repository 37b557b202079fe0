//! `strata net bridge`, in a network namespace of the test's: what a person sees, and Ctrl-C.
//!
//! Needs root, `ip` (iproute2) and `unshare` (util-linux), which every Debian has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

/// Runs a script with a host (`eth0`, 192.0.2.10, its gateway in another namespace) as a world of
/// its own; `$strata` is the program, and /run and /etc are the script's.
fn in_a_world(script: &str) -> Output {
    let world = format!(
        "set -e
        mount -t tmpfs none /run
        mount -t tmpfs none /etc
        ip link set lo up
        unshare -n sleep 100 & gateway=$!
        trap 'kill $gateway' EXIT
        until [ \"$(readlink /proc/$gateway/ns/net)\" != \"$(readlink /proc/$$/ns/net)\" ]; do :; done
        ip link add eth0 type veth peer name gw0 netns $gateway
        ip link set eth0 up
        ip address add 192.0.2.10/24 dev eth0
        nsenter -t $gateway -n ip link set gw0 up
        nsenter -t $gateway -n ip address add 192.0.2.1/24 dev gw0
        ip route add default via 192.0.2.1
        {script}"
    );
    Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", &world])
        .env("strata", env!("CARGO_BIN_EXE_strata"))
        .output()
        .unwrap()
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_bridge_comes_is_listed_and_goes() {
    let said = succeeded(&in_a_world(
        "$strata net bridge create br0 --uplink eth0
        $strata net bridge list
        $strata net bridge list --json
        ls /run/strata/net
        $strata net bridge delete br0
        ip -br address show dev eth0
        $strata net bridge list",
    ));
    for part in [
        "moved 192.0.2.10/24\nmoved route default via 192.0.2.1\n",
        "br0     up     1500  192.0.2.10/24  eth0  uplink\n",
        "\"name\": \"br0\"",
        "\nlock\n",
        "192.0.2.10/24",
        "There is no bridge",
    ] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    assert!(!said.contains(".json"), "a journal is left: {said}");
}

#[test]
fn ctrl_c_half_way_puts_everything_back() {
    let said = succeeded(&in_a_world(
        "ip route show > /run/before
        gateway_arp() { nsenter -t $gateway -n ip link set gw0 arp $1; }
        # On a busy machine the change may be done before the gateway falls silent: then again.
        for attempt in 1 2 3 4 5 6 7 8 9; do
            # A shell's background jobs ignore Ctrl-C by default.
            setsid env --default-signal=INT \\
                $strata net bridge create br0 --uplink eth0 --timeout 60 >&2 &
            child=$!
            # The gateway has answered once, and then no more.
            until [ -e /run/strata/net/br0.json ]; do :; done
            kill -STOP $child
            gateway_arp off
            kill -CONT $child
            sleep 0.5
            kill -0 $child && break
            gateway_arp on
            $strata net bridge delete br0 >&2
        done
        ip -br address show dev br0 | grep -q 192.0.2.10
        # A terminal's Ctrl-C goes to the whole group of the foreground.
        kill -INT -$child
        while [ -e /run/strata/net/br0.json ]; do sleep 0.01; done
        ip route show | diff /run/before -
        ! ip link show dev br0 2>/dev/null
        echo restored",
    ));
    assert!(said.ends_with("restored\n"), "{said}");
}

#[test]
fn what_can_not_be_is_one_sentence_with_the_remedy() {
    for (arguments, words) in [
        ("create sixteen-letters-", "15 characters"),
        ("create br0 --uplink eth7", "no interface eth7"),
        ("create eth0", "already"),
        ("create br0 --uplink lo", "no Ethernet interface"),
        ("create br0 --uplink eth0 --persist", "leave --persist out"),
        ("create br0 --timeout 0", "1..=3600"),
        ("delete br7", "no bridge br7"),
        ("delete eth0", "eth0 is no bridge"),
    ] {
        let output = in_a_world(&format!("$strata net bridge {arguments}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(words), "{arguments}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn without_rights_a_change_says_so_and_a_list_is_shown() {
    let said = succeeded(&in_a_world(
        "chmod 755 /run
        cp $strata /run/program # which others may not be able to reach where it is
        nobody() { setpriv --reuid 65534 --clear-groups /run/program net bridge $@; }
        ip link add br0 type bridge
        nobody list
        for change in 'create br1' 'delete br0' recover; do
            nobody $change 2>&1 || echo code $?
        done
        setpriv --bounding-set=-net_admin --inh-caps=-net_admin \\
            $strata net bridge create br1 2>&1 || echo code $?",
    ));
    assert!(said.contains("br0     down"), "{said}");
    let denied = "strata: no right to change bridges; run it as root\ncode 2\n";
    assert_eq!(said.matches(denied).count(), 3, "{said}");
    let denied = "strata: no right to make the bridge br1; run it as root\ncode 2\n";
    assert!(said.ends_with(denied), "{said}");
}
