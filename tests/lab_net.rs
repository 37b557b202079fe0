//! Networks: guests on a bridge reach each other and their host.

use strata_tests::{Config, Guest, Level1};

/// A bridge with the host's address 10.0.0.1, for frames of 9000 bytes.
const BRIDGE: &str = "modprobe bridge;ip link add br0 type bridge;ip link set br0 mtu 9000 up;\
                      ip addr add 10.0.0.1/24 dev br0";

/// Boots a guest on the bridge, with the address 10.0.0.`number`.
fn boot(level1: &Level1, number: u8) -> Guest<'_> {
    let net = format!("bridge=br0,mac=52:54:00:00:00:{number:02x}");
    let mut guest = level1.boot(&["--net", &net]).login();
    guest.ask("ip link set eth0 up");
    guest.ask(&format!("ip addr add 10.0.0.{number}/24 dev eth0"));
    guest
}

#[test]
fn guests_on_a_bridge_reach_each_other_and_the_host() {
    let level1 = Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    });
    level1.sh(BRIDGE);
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
