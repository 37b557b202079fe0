//! ifupdown: stanzas of `/etc/network/interfaces` and the files that it sources (interfaces(5)).
//!
//! The NIC's own stanzas are turned into comments that begin with a mark, so that deleting the
//! bridge finds them; the bridge's stanzas stand at the end of `interfaces`, between two marks. The
//! kernel's bridge is made by `ip link`, so the bridge-utils package is not needed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::Host;
use super::super::create::Uplink;
use super::super::files::{FileContents, file_error};
use super::super::ipconfig::{describe_address, is_static, route_parts};
use crate::Error;

/// The words that begin a stanza.
const STANZAS: [&str; 8] = [
    "iface",
    "auto",
    "mapping",
    "source",
    "source-directory",
    "template",
    "no-auto-down",
    "no-scripts",
];

fn begin(bridge: &str) -> String {
    format!("# strata {bridge}: begin")
}

fn end(bridge: &str) -> String {
    format!("# strata {bridge}: end")
}

fn mark(bridge: &str) -> String {
    format!("#strata {bridge}# ")
}

pub(super) fn create(
    host: &Host,
    bridge: &str,
    uplink: Option<&Uplink>,
) -> Result<Vec<FileContents>, Error> {
    let main = host.etc("network/interfaces");
    let mut files = Vec::new();
    for path in files_of(host)? {
        let old = read(&path)?;
        let mut new = match uplink {
            Some(uplink) => without_interface(&old, &uplink.link.name, bridge),
            None => old.clone(),
        };
        if path == main {
            if !new.ends_with('\n') && !new.is_empty() {
                new.push('\n');
            }
            new.push_str(&stanzas(bridge, uplink));
        }
        if new != old {
            files.push(FileContents {
                path,
                contents: Some(new.into_bytes()),
            });
        }
    }
    Ok(files)
}

pub(super) fn delete(host: &Host, bridge: &str) -> Result<Vec<FileContents>, Error> {
    let mut files = Vec::new();
    if !host.etc("network/interfaces").is_file() {
        return Ok(files);
    }
    let (begin, end, mark) = (begin(bridge), end(bridge), mark(bridge));
    for path in files_of(host)? {
        let old = read(&path)?;
        let mut inside = false;
        let mut new = String::new();
        for line in old.split_inclusive('\n') {
            match line.trim_end() {
                text if text == begin => inside = true,
                text if text == end => inside = false,
                _ if inside => {}
                _ => new.push_str(line.strip_prefix(mark.as_str()).unwrap_or(line)),
            }
        }
        if new != old {
            files.push(FileContents {
                path,
                contents: Some(new.into_bytes()),
            });
        }
    }
    Ok(files)
}

/// `interfaces` and, as Debian's sources them, the files of `interfaces.d`.
fn files_of(host: &Host) -> Result<Vec<PathBuf>, Error> {
    let main = host.etc("network/interfaces");
    let dir = host.etc("network/interfaces.d");
    let mut paths = vec![main];
    if dir.is_dir() {
        let entries = fs::read_dir(&dir).map_err(|source| file_error("read", &dir, source))?;
        let mut extra: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        extra.retain(|path| path.is_file());
        extra.sort();
        paths.extend(extra);
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| file_error("read", path, source))
}

/// `text` with every stanza of `interface` behind the mark of `bridge`. Where a line of `auto` names
/// others too, one for them stands between the bridge's markers.
fn without_interface(text: &str, interface: &str, bridge: &str) -> String {
    let mark = mark(bridge);
    let markers = (begin(bridge), end(bridge));
    let mut new = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let starts = STANZAS.contains(&first) || first.starts_with("allow-");
        if starts {
            inside = first == "iface" && words.next() == Some(interface);
        }
        let auto = first == "auto" || first.starts_with("allow-");
        let named = || line.split_whitespace().skip(1);
        if auto && named().any(|name| name == interface) {
            let _ = write!(new, "{mark}{line}");
            let others: Vec<_> = named().filter(|name| *name != interface).collect();
            if !others.is_empty() {
                let (begin, end) = &markers;
                let _ = writeln!(new, "{begin}\n{first} {}\n{end}", others.join(" "));
            }
        } else if inside && !line.trim().is_empty() {
            let _ = write!(new, "{mark}{line}");
        } else {
            new.push_str(line);
        }
    }
    new
}

fn stanzas(bridge: &str, uplink: Option<&Uplink>) -> String {
    let mut text = format!("{}\nauto {bridge}\n", begin(bridge));
    let permanent = |v6: bool| {
        uplink.into_iter().flat_map(move |uplink| {
            let addresses = uplink.config.addresses.iter();
            addresses.filter(move |address| address.is_permanent() && address.is_v6() == v6)
        })
    };
    let leased = uplink.is_some_and(|uplink| {
        let mut addresses = uplink.config.addresses.iter();
        addresses.any(|address| !address.is_permanent() && !address.is_v6())
    });
    let method = if leased { "dhcp" } else { "manual" };
    let _ = writeln!(text, "iface {bridge} inet {method}");
    let _ = writeln!(
        text,
        "    pre-up ip link add {bridge} type bridge stp_state 0 forward_delay 0 || true"
    );
    if let Some(uplink) = uplink {
        let link = &uplink.link;
        let mac: Vec<_> = link.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            text,
            "    pre-up ip link set {bridge} address {} mtu {}",
            mac.join(":"),
            link.mtu
        );
        let _ = writeln!(
            text,
            "    pre-up ip link set {} up master {bridge}",
            link.name
        );
    }
    let _ = writeln!(text, "    pre-up ip link set {bridge} up");
    for address in permanent(false).chain(permanent(true)) {
        let _ = writeln!(
            text,
            "    up ip address replace {} dev {bridge}",
            describe_address(address)
        );
    }
    for route in uplink.into_iter().flat_map(|uplink| &uplink.config.routes) {
        if !is_static(route) {
            continue;
        }
        let (destination, gateway, metric) = route_parts(route);
        let _ = write!(
            text,
            "    up ip {}route replace {}",
            if route.is_v6() { "-6 " } else { "" },
            destination.as_deref().unwrap_or("default")
        );
        if let Some(gateway) = gateway {
            let _ = write!(text, " via {gateway}");
        }
        let _ = write!(text, " dev {bridge}");
        if let Some(metric) = metric {
            let _ = write!(text, " metric {metric}");
        }
        text.push('\n');
    }
    if let Some(uplink) = uplink
        && !uplink.dns.servers.is_empty()
    {
        let _ = writeln!(text, "    dns-nameservers {}", uplink.dns.servers.join(" "));
    }
    let _ = writeln!(
        text,
        "    post-down ip link delete {bridge} type bridge || true"
    );
    let _ = writeln!(text, "{}", end(bridge));
    text
}
