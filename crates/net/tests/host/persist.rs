//! The distribution's network configuration.

use std::fs;

use strata_net::Error;
use strata_net::bridge;

use crate::world::{World, change};

const INTERFACES: &str = "\
source /etc/network/interfaces.d/*

auto lo eth0
iface lo inet loopback

allow-hotplug eth0 eth1
iface eth0 inet static
    address 192.0.2.10/24

    gateway 192.0.2.1
iface eth1 inet dhcp
";
const EXTRA: &str = "iface eth0 inet6 static\n    address 2001:db8::10/64";

#[test]
fn networkd_gets_three_files_that_delete_takes_away() {
    let world = World::new();
    let root = world.root.path();
    fs::create_dir_all(root.join("run/systemd/netif")).unwrap();
    let dir = root.join("etc/systemd/network");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("10-mine.network"), "mine").unwrap();
    let report = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), true))
        .unwrap();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(report.files.len(), 3);
    assert!(read("05-strata-br0.netdev").contains("Name=br0\nKind=bridge\nMACAddress="));
    assert!(read("05-strata-br0-uplink.network").contains("Name=eth0\n\n[Network]\nBridge=br0\n"));
    let network = read("05-strata-br0.network");
    for line in [
        "Address=192.0.2.10/24\n",
        "Address=2001:db8::10/64\n",
        "[Route]\nGateway=192.0.2.1\n",
        "[Route]\nGateway=2001:db8::1\nMetric=77\n",
    ] {
        assert!(network.contains(line), "{network}");
    }
    assert!(!network.contains("DHCP"));
    let report = world
        .host
        .run(|| bridge::delete(&world.paths(), change(None), false))
        .unwrap();
    assert_eq!(report.files.len(), 3);
    let left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["10-mine.network"]);
}

#[test]
fn a_leased_address_is_leased_again() {
    let world = World::new();
    fs::create_dir_all(world.root.path().join("run/systemd/netif")).unwrap();
    fs::create_dir_all(world.root.path().join("etc/systemd/network")).unwrap();
    world
        .host
        .ip("address change 192.0.2.10/24 dev eth0 valid_lft 3600 preferred_lft 1800")
        .unwrap();
    world
        .host
        .ip("route replace default via 192.0.2.1 proto dhcp")
        .unwrap();
    let report = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), true))
        .unwrap();
    assert!(report.notes[0].contains("DHCP client"), "{report:?}");
    let network = fs::read_to_string(&report.files[1]).unwrap();
    assert!(network.contains("DHCP=ipv4\n"), "{network}");
    assert!(!network.contains("192.0.2"), "{network}");
    let address = world.host.ip("address show dev br0").unwrap();
    assert!(
        address.contains("valid_lft 3") && address.contains("preferred_lft 1"),
        "{address}"
    );
}

#[test]
fn ifupdowns_files_come_back_byte_for_byte() {
    let world = World::new();
    let dir = world.root.path().join("etc/network");
    fs::create_dir_all(dir.join("interfaces.d")).unwrap();
    let (main, extra) = (dir.join("interfaces"), dir.join("interfaces.d/eth0"));
    fs::write(&main, INTERFACES).unwrap();
    fs::write(&extra, EXTRA).unwrap();
    world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), true))
        .unwrap();
    let text = fs::read_to_string(&main).unwrap();
    let live: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(live.contains(&"auto lo"), "{text}");
    assert!(live.contains(&"allow-hotplug eth1"), "{text}");
    assert!(live.contains(&"iface eth1 inet dhcp"), "{text}");
    assert!(!live.contains(&"iface eth0 inet static"), "{text}");
    assert!(!live.iter().any(|line| line.contains("gateway")), "{text}");
    assert!(
        live.contains(&"    pre-up ip link set eth0 up master br0"),
        "{text}"
    );
    assert!(
        live.contains(&"    up ip route replace default via 192.0.2.1 dev br0"),
        "{text}"
    );
    assert!(
        fs::read_to_string(&extra)
            .unwrap()
            .lines()
            .all(|line| line.starts_with('#'))
    );
    world
        .host
        .run(|| bridge::delete(&world.paths(), change(None), false))
        .unwrap();
    assert_eq!(fs::read_to_string(&main).unwrap(), INTERFACES);
    assert_eq!(fs::read_to_string(&extra).unwrap(), EXTRA);
}

#[test]
fn files_that_can_not_be_written_bring_everything_back() {
    let world = World::new();
    fs::create_dir_all(world.root.path().join("run/systemd/netif")).unwrap();
    let before = world.configuration();
    // There is no /etc/systemd/network.
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), true))
        .unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    assert_eq!(world.configuration(), before);
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
}

#[test]
fn an_unknown_distribution_is_refused_first() {
    let world = World::new();
    let before = world.configuration();
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), true))
        .unwrap_err();
    assert!(matches!(error, Error::Persist { .. }), "{error}");
    assert_eq!(world.configuration(), before);
}
