//! Taps of a real kernel.

use std::os::fd::{AsFd, OwnedFd};

use strata_net::bridge;
use strata_net::test_utils::Namespace;
use strata_net::{Error, InterfaceName, MacAddr, Offloads, Tap};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

#[test]
fn a_tap_lives_as_long_as_it_is_open_unless_it_was_there_before() {
    let host = Namespace::new().unwrap();
    host.ip("tuntap add name kept mode tap").unwrap();
    for (tap, stays) in [("made", false), ("kept", true)] {
        let open = host.run(|| Tap::open(Some(&name(tap)), 1)).unwrap();
        assert_eq!(open.name().as_str(), tap);
        host.ip(&format!("link show dev {tap}")).unwrap();
        drop(open);
        assert_eq!(
            host.ip(&format!("link show dev {tap}")).is_ok(),
            stays,
            "{tap}"
        );
    }
    let unnamed = host.run(|| Tap::open(None, 1)).unwrap();
    assert_eq!(unnamed.name().as_str(), "tap0");
}

#[test]
fn several_queues_are_one_tap() {
    let host = Namespace::new().unwrap();
    let tap = host.run(|| Tap::open(Some(&name("many")), 4)).unwrap();
    assert_eq!(tap.queues().len(), 4);
    drop(tap);
    host.ip("tuntap add name many mode tap multi_queue")
        .unwrap();
    assert_eq!(
        host.run(|| Tap::open(Some(&name("many")), 1))
            .unwrap()
            .queues()
            .len(),
        1
    );
    assert_eq!(
        host.run(|| Tap::open(Some(&name("many")), 2))
            .unwrap()
            .queues()
            .len(),
        2
    );
}

#[test]
fn offloads_are_those_the_kernel_knows() {
    let host = Namespace::new().unwrap();
    let tap = host.run(|| Tap::open(None, 1)).unwrap();
    assert!(tap.known_offloads().contains(Offloads::ALL_BUT_USO));
    let queue = &tap.queues()[0];
    queue.set_offloads(Offloads::CSUM | Offloads::TSO4).unwrap();
    queue.set_offloads(Offloads::NONE).unwrap();
}

#[test]
fn open_descriptors_are_taken_over_and_strangers_refused() {
    let host = Namespace::new().unwrap();
    let other = host.run(|| Tap::open(Some(&name("other")), 1)).unwrap();
    let tap = host.run(|| Tap::open(Some(&name("given")), 2)).unwrap();
    let fds = || -> Vec<OwnedFd> {
        let queues = tap.queues().iter();
        queues
            .map(|queue| queue.as_fd().try_clone_to_owned().unwrap())
            .collect()
    };
    let taken = Tap::from_fds(fds()).unwrap();
    assert_eq!(taken.name().as_str(), "given");
    assert_eq!(taken.queues().len(), 2);

    let mut mixed = fds();
    mixed.push(other.queues()[0].as_fd().try_clone_to_owned().unwrap());
    let file = std::fs::File::open("/dev/null").unwrap();
    for bad in [mixed, vec![OwnedFd::from(file)], vec![]] {
        let error = Tap::from_fds(bad).unwrap_err();
        assert!(matches!(error, Error::NotATapFd { .. }), "{error}");
    }
}

#[test]
fn what_can_not_be_opened_is_said_with_the_remedy() {
    let host = Namespace::new().unwrap();
    host.ip("link add br0 type bridge").unwrap();
    host.ip("tuntap add name single mode tap").unwrap();
    let open = |tap: &str, queues| {
        host.run(|| Tap::open(Some(&name(tap)), queues))
            .unwrap_err()
    };
    assert!(matches!(open("br0", 1), Error::NotATap { .. }));
    assert!(matches!(open("single", 2), Error::TapSingleQueue { .. }));
    let held = host.run(|| Tap::open(Some(&name("single")), 1)).unwrap();
    assert!(matches!(open("single", 1), Error::TapBusy { .. }));
    drop(held);
}

#[test]
fn a_tap_joins_a_bridge_and_is_listed_with_its_guest() {
    let host = Namespace::new().unwrap();
    host.ip("link add br0 mtu 9000 type bridge").unwrap();
    let tap = host.run(|| Tap::open(Some(&name("guest0")), 2)).unwrap();
    let mac: MacAddr = "52:54:00:00:00:01".parse().unwrap();
    let attach = |bridge: &str, mac| host.run(|| bridge::attach(tap.name(), &name(bridge), mac));
    assert!(matches!(attach("br7", None), Err(Error::NoSuchLink { .. })));
    assert!(matches!(attach("lo", None), Err(Error::NotABridge { .. })));
    assert_eq!(attach("br0", Some(mac)).unwrap(), 9000);
    let bridges = host.run(bridge::list).unwrap();
    let port = &bridges[0].ports[0];
    assert_eq!(
        (port.name.as_str(), port.kind),
        ("guest0", bridge::PortKind::Tap)
    );
    assert_eq!(port.guests.len(), 1);
    assert_eq!(port.guests[0].pid, std::process::id());

    host.ip("link set br0 address 52:54:00:00:00:02").unwrap();
    let taken = attach("br0", Some("52:54:00:00:00:02".parse().unwrap()));
    assert!(matches!(taken, Err(Error::MacTaken { .. })), "{taken:?}");
    host.ip("link add p0 type veth peer name p1").unwrap();
    host.ip("link set p0 master br0").unwrap();
    bridge_fdb(&host, "52:54:00:00:00:03");
    let taken = attach("br0", Some("52:54:00:00:00:03".parse().unwrap()));
    assert!(matches!(taken, Err(Error::MacTaken { .. })), "{taken:?}");
}

/// Makes the bridge know a machine behind its port `p0`.
fn bridge_fdb(host: &Namespace, mac: &str) {
    let status = host.run(|| {
        std::process::Command::new("bridge")
            .args(["fdb", "add", mac, "dev", "p0", "master", "static"])
            .status()
    });
    assert!(status.unwrap().success());
}
