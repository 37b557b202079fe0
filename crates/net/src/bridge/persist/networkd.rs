//! systemd-networkd: three files in `/etc/systemd/network` (systemd.netdev(5), systemd.network(5)).

use std::fmt::Write as _;
use std::path::PathBuf;

use super::super::Host;
use super::super::create::Uplink;
use super::super::files::FileContents;
use super::super::ipconfig::{describe_address, is_static, route_parts};
use crate::netlink::Address;

/// The files' names sort before those that a distribution or a person writes, because the first
/// file that matches an interface counts.
fn paths(host: &Host, bridge: &str) -> [PathBuf; 3] {
    ["netdev", "network", "uplink.network"].map(|suffix| {
        let separator = if suffix == "uplink.network" { '-' } else { '.' };
        host.etc(format!(
            "systemd/network/05-strata-{bridge}{separator}{suffix}"
        ))
    })
}

pub(super) fn create(host: &Host, bridge: &str, uplink: Option<&Uplink>) -> Vec<FileContents> {
    let note = format!("# Written by `strata net bridge create {bridge} --persist`.\n");
    let mut netdev = format!("{note}[NetDev]\nName={bridge}\nKind=bridge\n");
    if let Some(uplink) = uplink {
        let mac: Vec<_> = uplink
            .link
            .mac
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let _ = writeln!(
            netdev,
            "MACAddress={}\nMTUBytes={}",
            mac.join(":"),
            uplink.link.mtu
        );
    }
    netdev.push_str("\n[Bridge]\nSTP=no\nForwardDelaySec=0\n");
    let network = format!("{note}[Match]\nName={bridge}\n\n{}", network(uplink));
    let mut texts = vec![netdev, network];
    if let Some(uplink) = uplink {
        let name = &uplink.link.name;
        texts.push(format!(
            "{note}[Match]\nName={name}\n\n[Network]\nBridge={bridge}\n"
        ));
    }
    let files = paths(host, bridge).into_iter().zip(texts);
    let file = |(path, text): (PathBuf, String)| FileContents {
        path,
        contents: Some(text.into_bytes()),
    };
    files.map(file).collect()
}

/// What the bridge is configured with: leased addresses will be leased again, the others stay.
fn network(uplink: Option<&Uplink>) -> String {
    let Some(uplink) = uplink else {
        return "[Network]\nConfigureWithoutCarrier=yes\nLinkLocalAddressing=no\n".to_owned();
    };
    let mut text = "[Network]\n".to_owned();
    let config = &uplink.config;
    let leased = |v6: bool| {
        let family = |address: &&Address| address.is_v6() == v6;
        config
            .addresses
            .iter()
            .filter(family)
            .any(|address| !address.is_permanent())
    };
    match (leased(false), leased(true)) {
        (true, true) => text.push_str("DHCP=yes\n"),
        (true, false) => text.push_str("DHCP=ipv4\n"),
        // Router advertisements say by themselves whether DHCPv6 is to be asked.
        (false, _) => {}
    }
    for server in &uplink.dns.servers {
        let _ = writeln!(text, "DNS={server}");
    }
    if !uplink.dns.domains.is_empty() {
        let _ = writeln!(text, "Domains={}", uplink.dns.domains.join(" "));
    }
    for address in config
        .addresses
        .iter()
        .filter(|address| address.is_permanent())
    {
        let _ = writeln!(text, "Address={}", describe_address(address));
    }
    for route in config.routes.iter().filter(|route| is_static(route)) {
        let (destination, gateway, metric) = route_parts(route);
        text.push_str("\n[Route]\n");
        if let Some(destination) = destination {
            let _ = writeln!(text, "Destination={destination}");
        }
        if let Some(gateway) = gateway {
            let _ = writeln!(text, "Gateway={gateway}");
        }
        if let Some(metric) = metric {
            let _ = writeln!(text, "Metric={metric}");
        }
    }
    text
}

pub(super) fn delete(host: &Host, bridge: &str) -> Vec<FileContents> {
    let existing = paths(host, bridge).into_iter().filter(|path| path.exists());
    existing
        .map(|path| FileContents {
            path,
            contents: None,
        })
        .collect()
}
