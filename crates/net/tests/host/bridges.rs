//! Making and deleting bridges around the host's NIC.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use strata_net::Error;
use strata_net::bridge::{self, Change, Host, PortKind, Report};

use crate::world::{World, change, paths};

/// Whether a datagram reaches the gateway, by both families.
fn reaches_the_gateway(world: &World) -> bool {
    for (at, from) in [("192.0.2.1:7", "0.0.0.0:0"), ("[2001:db8::1]:7", "[::]:0")] {
        let server = world.gateway.run(|| UdpSocket::bind(at).unwrap());
        server
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        world.host.run(|| {
            let socket = UdpSocket::bind(from).unwrap();
            let _ = socket.send_to(b"hello", at);
        });
        let mut buffer = [0; 16];
        if !server.recv(&mut buffer).is_ok_and(|count| count == 5) {
            return false;
        }
    }
    true
}

#[test]
fn a_bridge_takes_over_what_the_nic_had() {
    let world = World::new();
    world.host.ip("link set eth0 mtu 1400").unwrap();
    world
        .host
        .ip("address add 192.0.2.11/24 dev eth0 label eth0:1")
        .unwrap();
    world
        .host
        .ip("route add 198.51.100.0/24 via 192.0.2.7 metric 5 table 100")
        .unwrap();
    world
        .host
        .ip("route add 203.0.113.0/24 dev eth0 scope link src 192.0.2.11")
        .unwrap();
    world
        .host
        .ip("route add 10.0.0.0/8 via 203.0.113.9 mtu 1300")
        .unwrap();
    let before = world.configuration();

    let report = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), false))
        .unwrap();
    assert_eq!(report.notes, [""; 0]);
    assert!(
        report.moved.contains(&"192.0.2.10/24".to_owned()),
        "{report:?}"
    );
    assert!(
        report
            .moved
            .contains(&"route default via 192.0.2.1".to_owned()),
        "{report:?}"
    );
    let addresses = world.host.ip("-br address show dev br0").unwrap();
    for address in ["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"] {
        assert!(addresses.contains(address), "{addresses}");
    }
    assert!(
        !world
            .host
            .ip("-br address show dev eth0")
            .unwrap()
            .contains("192.0.2")
    );
    let routes = world.host.ip("route show table all").unwrap();
    for route in [
        "default via 192.0.2.1 dev br0",
        "198.51.100.0/24 via 192.0.2.7 dev br0 table 100 metric 5",
        "203.0.113.0/24 dev br0 scope link src 192.0.2.11",
        "10.0.0.0/8 via 203.0.113.9 dev br0 mtu 1300",
    ] {
        assert!(routes.contains(route), "{route} is not in\n{routes}");
    }
    let mac = |name| {
        let text = world.host.ip(&format!("-br link show dev {name}")).unwrap();
        text.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(mac("br0"), mac("eth0"));
    assert!(
        world
            .host
            .ip("link show dev br0")
            .unwrap()
            .contains("mtu 1400")
    );
    assert!(reaches_the_gateway(&world));

    let bridges = world.host.run(bridge::list).unwrap();
    assert_eq!(bridges[0].name, "br0");
    assert_eq!(bridges[0].mtu, 1400);
    assert_eq!(bridges[0].ports[0].name, "eth0");
    assert_eq!(bridges[0].ports[0].kind, PortKind::Uplink);

    let report = world
        .host
        .run(|| bridge::delete(&world.paths(), change(None), false))
        .unwrap();
    assert!(
        report.moved.contains(&"192.0.2.11/24".to_owned()),
        "{report:?}"
    );
    // A label is the one thing that a bridge can not keep for its NIC.
    assert_eq!(world.configuration(), before.replace("eth0:1", "eth0"));
    assert!(reaches_the_gateway(&world));
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
}

#[test]
fn a_bridge_without_uplink_is_just_made_and_deleted() {
    let world = World::new();
    let before = world.configuration();
    world
        .host
        .run(|| bridge::create(&world.paths(), change(None), false))
        .unwrap();
    assert_eq!(world.interfaces(), ["lo", "eth0", "br0"]);
    world
        .host
        .run(|| bridge::delete(&world.paths(), change(None), false))
        .unwrap();
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
    assert_eq!(world.configuration(), before);
}

#[test]
fn an_uplink_that_fails_brings_everything_back() {
    let world = World::new();
    let before = world.configuration();
    let mut cut_off = change(Some("eth0"));
    cut_off.timeout = Duration::from_millis(500);
    cut_off.guard = Some(world.meanwhile("down"));
    let started = Instant::now();
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), cut_off, false))
        .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    let text = error.to_string();
    assert!(matches!(error, Error::CutOff { .. }), "{text}");
    assert!(text.contains("192.0.2.1"), "{text}");
    world.mend();
    assert_eq!(world.configuration(), before);
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
    assert!(reaches_the_gateway(&world));
    assert!(!world.root.path().join("run/strata/net/br0.json").exists());
}

#[test]
fn a_gateway_that_does_not_answer_brings_everything_back_though_there_is_carrier() {
    let world = World::new();
    let before = world.configuration();
    let mut deaf = change(Some("eth0"));
    deaf.timeout = Duration::from_millis(1500);
    deaf.guard = Some(world.meanwhile("arp off"));
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), deaf, false))
        .unwrap_err();
    assert!(!error.to_string().contains("carrier"), "{error}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    world.gateway.ip("link set gw0 arp on").unwrap();
    assert_eq!(world.configuration(), before);
}

#[test]
fn a_bridge_whose_deletion_cuts_the_host_off_stays() {
    let world = World::new();
    world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), false))
        .unwrap();
    let before = world.configuration();
    let mut cut_off = change(None);
    cut_off.timeout = Duration::from_millis(500);
    cut_off.guard = Some(world.meanwhile("down"));
    let error = world
        .host
        .run(|| bridge::delete(&world.paths(), cut_off, false))
        .unwrap_err();
    assert!(matches!(error, Error::CutOff { .. }), "{error}");
    world.mend();
    assert_eq!(world.configuration(), before);
    assert!(reaches_the_gateway(&world));
}

/// Not a test: the process that changes a bridge, or its guard, for the tests below.
#[test]
#[ignore = "started by other tests"]
fn helper() {
    let Ok(root) = std::env::var("STRATA_TEST_ROOT") else {
        return;
    };
    let host = paths(root.as_ref());
    match std::env::var("STRATA_TEST_ROLE").as_deref() {
        Ok("guard") => {
            bridge::guard(&host, std::io::stdin(), std::io::stdout()).unwrap();
        }
        Ok(role) => {
            let mut slow = change(Some("eth0"));
            slow.timeout = Duration::from_secs(60);
            if role == "guarded" {
                slow.guard = Some(guard(&host));
            } else {
                // Says that it is there, and does nothing.
                let mut idle = Command::new("sh");
                idle.args(["-c", "sleep 0.5; echo; exec cat"]);
                slow.guard = Some(idle);
            }
            drop(bridge::create(&host, slow, false));
        }
        Err(_) => {}
    }
}

/// A guard: this program again, after a moment in which the test cuts the cable.
fn guard(host: &Host) -> Command {
    let mut guard = Command::new("sh");
    guard.args(["-c", "sleep 0.5; exec \"$0\" \"$@\""]);
    guard.arg(std::env::current_exe().unwrap());
    guard.args(["--exact", "bridges::helper", "--ignored"]);
    guard.env("STRATA_TEST_ROOT", &host.root);
    guard.env("STRATA_TEST_ROLE", "guard");
    guard
}

#[test]
fn a_change_that_is_done_ends_its_guard() {
    let world = World::new();
    let mut guarded = change(Some("eth0"));
    guarded.guard = Some(guard(&world.paths()));
    let created = world
        .host
        .run(|| bridge::create(&world.paths(), guarded, false));
    created.unwrap();
    let mut guarded = change(None);
    guarded.guard = Some(guard(&world.paths()));
    let deleted = world
        .host
        .run(|| bridge::delete(&world.paths(), guarded, false));
    deleted.unwrap();
    let mut dead = change(None);
    dead.guard = Some(Command::new("false"));
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), dead, false))
        .unwrap_err();
    assert!(matches!(error, Error::Guard { .. }), "{error}");
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
}

/// Starts a change that waits for its gateway in vain, and kills it there.
fn kill_half_way(world: &World, role: &str) {
    // The gateway answers until the change has begun.
    let mut child = world.host.run(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bridges::helper", "--ignored"])
            .env("STRATA_TEST_ROOT", world.root.path())
            .env("STRATA_TEST_ROLE", role)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    let journal = world.root.path().join("run/strata/net/br0.json");
    let end = Instant::now() + Duration::from_secs(20);
    while !journal.exists() && Instant::now() < end {
        std::thread::yield_now();
    }
    world.gateway.ip("link set gw0 down").unwrap();
    while !world
        .host
        .ip("-br address show dev br0")
        .is_ok_and(|text| text.contains("192.0.2.10"))
    {
        assert!(Instant::now() < end, "the change does not come about");
    }
    assert!(
        !world
            .host
            .ip("-br address show dev eth0")
            .unwrap()
            .contains("192.0.2")
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_change_killed_half_way_is_undone_by_its_guard() {
    let world = World::new();
    let before = world.configuration();
    kill_half_way(&world, "guarded");
    let end = Instant::now() + Duration::from_secs(20);
    while world.root.path().join("run/strata/net/br0.json").exists() {
        assert!(Instant::now() < end, "the guard does nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    world.mend();
    assert_eq!(world.configuration(), before);
    assert_eq!(world.interfaces(), ["lo", "eth0"]);
    assert!(reaches_the_gateway(&world));
}

#[test]
fn a_change_killed_half_way_together_with_its_guard_is_undone_by_the_next_one() {
    let world = World::new();
    let before = world.configuration();
    kill_half_way(&world, "alone");
    world.mend();
    assert_ne!(world.configuration(), before);
    let recovered = world.host.run(|| bridge::recover(&world.paths())).unwrap();
    assert_eq!(recovered, ["br0"]);
    assert_eq!(world.configuration(), before);
    assert_eq!(
        world.host.run(|| bridge::recover(&world.paths())).unwrap(),
        [""; 0]
    );

    kill_half_way(&world, "alone");
    world.mend();
    let report = world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), false))
        .unwrap();
    assert!(report.notes[0].contains("half done"), "{report:?}");
    assert!(reaches_the_gateway(&world));
}

#[test]
fn one_process_changes_bridges_at_a_time() {
    let world = World::new();
    let dir = world.root.path().join("run/strata/net");
    fs::create_dir_all(&dir).unwrap();
    let lock = fs::File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = world
        .host
        .run(|| bridge::create(&world.paths(), change(None), false))
        .unwrap_err();
    assert!(matches!(error, Error::BridgesLocked), "{error}");
}

#[test]
fn what_can_not_be_is_refused_before_anything_changes() {
    let world = World::new();
    world.host.ip("link add taken type bridge").unwrap();
    world
        .host
        .ip("link add port type veth peer name other")
        .unwrap();
    world.host.ip("link set port master taken").unwrap();
    world
        .host
        .ip("route add 10.0.0.0/8 nexthop via 192.0.2.7 nexthop via 192.0.2.8")
        .unwrap();
    let before = world.configuration();
    type Operation = fn(&Host, Change, bool) -> Result<Report, Error>;
    let refused_by = |operation: Operation, bridge: &str, uplink: Option<&str>| {
        let mut change = change(uplink);
        change.bridge = bridge.parse().unwrap();
        let refused = world.host.run(|| operation(&world.paths(), change, false));
        refused.unwrap_err().to_string()
    };
    let refused = |bridge: &str, uplink| refused_by(bridge::create, bridge, uplink);
    assert!(refused("taken", None).contains("a bridge taken already"));
    assert!(refused("eth0", None).contains("an interface eth0 already"));
    assert!(refused("br0", Some("eth7")).contains("no interface eth7"));
    assert!(refused("br0", Some("lo")).contains("no Ethernet interface"));
    assert!(refused("br0", Some("taken")).contains("a bridge itself"));
    assert!(refused("br0", Some("port")).contains("a port of taken already"));
    assert!(refused("br0", Some("other")).contains("it is down"));
    assert!(refused("br0", Some("eth0")).contains("10.0.0.0/8"));
    let refused = |bridge: &str, uplink| refused_by(bridge::delete, bridge, uplink);
    assert!(refused("br7", None).contains("no bridge br7"));
    assert!(refused("eth0", None).contains("eth0 is no bridge"));
    assert!(refused("taken", Some("eth0")).contains("no port of taken"));
    assert_eq!(world.configuration(), before);
}

#[test]
fn the_interfaces_dns_servers_move_too() {
    let world = World::new();
    let root = world.root.path();
    fs::create_dir_all(root.join("run/systemd/resolve")).unwrap();
    let program = root.join("resolvectl");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/log\ncase \"$*\" in\n'dns eth0') echo 'Link 2 (eth0): 192.0.2.1 2001:db8::53' ;;\n'domain eth0') echo 'Link 2 (eth0): example.org' ;;\nesac\n",
        root.display()
    );
    let mut file = fs::File::create(&program).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755))
        .unwrap();
    drop(file);
    world
        .host
        .run(|| bridge::create(&world.paths(), change(Some("eth0")), false))
        .unwrap();
    let log = fs::read_to_string(root.join("log")).unwrap();
    assert!(log.contains("dns br0 192.0.2.1 2001:db8::53\n"), "{log}");
    assert!(log.contains("domain br0 example.org\n"), "{log}");
}
