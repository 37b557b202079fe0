//! A host with a NIC, and a gateway at the NIC's other end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use strata_net::bridge::{Change, Host};
use strata_net::test_utils::Namespace;
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) host: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) root: TempDir,
}

impl World {
    /// `eth0` of the host, at 192.0.2.10 and 2001:db8::10, leads to a gateway at .1 and ::1.
    pub(crate) fn new() -> Self {
        let (host, gateway) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        host.ip(&format!(
            "link add eth0 type veth peer name gw0 netns {}",
            gateway.path()
        ))
        .unwrap();
        for (namespace, name, last) in [(&host, "eth0", "10"), (&gateway, "gw0", "1")] {
            // Link-local addresses come when they please; the tests compare all others.
            namespace
                .ip(&format!("link set {name} addrgenmode none"))
                .unwrap();
            namespace.ip(&format!("link set {name} up")).unwrap();
            namespace
                .ip(&format!("address add 192.0.2.{last}/24 dev {name}"))
                .unwrap();
            namespace
                .ip(&format!("address add 2001:db8::{last}/64 dev {name} nodad"))
                .unwrap();
        }
        host.ip("route add default via 192.0.2.1").unwrap();
        host.ip("-6 route add default via 2001:db8::1 metric 77")
            .unwrap();
        let root = TempDir::new().unwrap();
        let world = Self {
            host,
            gateway,
            root,
        };
        world.settle();
        world
    }

    pub(crate) fn paths(&self) -> Host {
        paths(self.root.path())
    }

    /// All that the host is configured with, but for what the kernel counts.
    pub(crate) fn configuration(&self) -> String {
        let mut text = String::new();
        for what in [
            "link show dev eth0",
            "address show dev eth0",
            "route show table all",
            "-6 route show table all",
        ] {
            text += &self.host.ip(what).unwrap();
        }
        let mut lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.contains("fe80::"))
            .collect();
        lines.retain(|line| !line.starts_with("multicast ff00::") && !line.contains("dev lo"));
        lines.join("\n")
    }

    pub(crate) fn interfaces(&self) -> Vec<String> {
        let text = self.host.ip("-br link").unwrap();
        text.lines()
            .filter_map(|line| line.split(['@', ' ']).next())
            .map(str::to_owned)
            .collect()
    }

    /// A command that does `what` to the gateway's interface, run in place of a guard: after the
    /// host has seen that the gateway answers, and before the first change.
    pub(crate) fn meanwhile(&self, what: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.gateway.path()))
            .args(["sh", "-c"])
            .arg(format!("ip link set gw0 {what}; echo; exec cat"));
        command
    }

    pub(crate) fn mend(&self) {
        self.gateway.ip("link set gw0 up").unwrap();
        // The kernel dropped it with the link.
        let _ = self.gateway.ip("address add 2001:db8::1/64 dev gw0 nodad");
        self.settle();
    }

    /// Waits until the kernel has noticed the carrier, and made the address of IPv6 the host's own,
    /// which it does some time after a link is up.
    fn settle(&self) {
        let settled = || {
            let is = |what, state| self.host.ip(what).is_ok_and(|text| text.contains(state));
            is("link show dev eth0", "state UP")
                && !is("route show table all", "linkdown")
                && is("-6 route show table all", "local 2001:db8::10 ")
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !settled() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn paths(root: &Path) -> Host {
    Host {
        root: root.to_owned(),
        resolvectl: Some(root.join("resolvectl")),
    }
}

pub(crate) fn change(uplink: Option<&str>) -> Change {
    Change {
        bridge: "br0".parse().unwrap(),
        uplink: uplink.map(|name| name.parse().unwrap()),
        timeout: Duration::from_secs(5),
        guard: None,
    }
}
