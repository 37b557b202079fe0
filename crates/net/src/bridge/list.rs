//! Which bridges there are, and what hangs on them.

use std::fs;

use serde::Serialize;

use super::ipconfig::describe_address;
use crate::Error;
use crate::error::link_error;
use crate::netlink::{Link, Netlink};

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Bytes of the largest frame's payload.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: String,
    /// The host's own addresses on it, with prefix lengths.
    pub addresses: Vec<String>,
    /// What is connected to it.
    pub ports: Vec<Port>,
}

/// A port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The interface's name.
    pub name: String,
    /// What it is.
    pub kind: PortKind,
    /// Whether frames pass.
    pub up: bool,
    /// The programs that have the tap open.
    pub guests: Vec<Guest>,
}

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A tap: a guest's end.
    Tap,
    /// Anything else: a NIC, a VLAN, one end of a veth pair.
    Uplink,
}

/// A program that has a tap open: a guest's monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Its process id.
    pub pid: u32,
    /// The program's name, as in `ps`.
    pub program: String,
}

/// All bridges of the calling thread's network namespace, by name. Guests are seen as far as
/// `/proc` may be read: root sees all.
///
/// # Errors
/// [`Error::Link`] when the kernel does not answer.
pub fn list() -> Result<Vec<Bridge>, Error> {
    let failed = |error| link_error("list", "bridges", error);
    let mut netlink = Netlink::open().map_err(failed)?;
    let links = netlink.links().map_err(failed)?;
    let taps = if links.iter().any(Link::is_tap) {
        open_taps()
    } else {
        Vec::new()
    };
    let mut bridges = Vec::new();
    for link in links.iter().filter(|link| link.is_bridge()) {
        let mut addresses = netlink.addresses(link.index).map_err(failed)?;
        addresses.retain(|address| !address.is_v6_link_local());
        let of_bridge = |port: &&Link| port.master == Some(link.index);
        let mut ports: Vec<_> = links
            .iter()
            .filter(of_bridge)
            .map(|port| describe_port(port, &taps))
            .collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        bridges.push(Bridge {
            name: link.name.clone(),
            up: link.is_up(),
            mtu: link.mtu,
            mac: colons(&link.mac),
            addresses: addresses.iter().map(describe_address).collect(),
            ports,
        });
    }
    bridges.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bridges)
}

fn describe_port(port: &Link, taps: &[(String, Guest)]) -> Port {
    let guests = taps.iter().filter(|(tap, _)| *tap == port.name);
    Port {
        name: port.name.clone(),
        kind: if port.is_tap() {
            PortKind::Tap
        } else {
            PortKind::Uplink
        },
        up: port.has_carrier(),
        guests: guests.map(|(_, guest)| guest.clone()).collect(),
    }
}

fn colons(mac: &[u8]) -> String {
    let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Every tap that a process has open: the kernel names it in the descriptor's `fdinfo`. Processes
/// that end meanwhile or may not be looked into are left out.
fn open_taps() -> Vec<(String, Guest)> {
    let mut found: Vec<(String, Guest)> = Vec::new();
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        for descriptor in fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if !fs::read_link(descriptor.path()).is_ok_and(|to| to.ends_with("net/tun")) {
                continue;
            }
            let info = path.join("fdinfo").join(descriptor.file_name());
            let text = fs::read_to_string(info).unwrap_or_default();
            let Some(tap) = text.lines().find_map(|line| line.strip_prefix("iff:")) else {
                continue;
            };
            // Another namespace may have a tap of the same name.
            if pid != std::process::id() && fs::read_link(path.join("ns/net")).ok() != own {
                continue;
            }
            let program = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let guest = Guest {
                pid,
                program: program.trim().to_owned(),
            };
            let entry = (tap.trim().to_owned(), guest);
            if !found.contains(&entry) {
                found.push(entry);
            }
        }
    }
    found
}
