//! Bridges as a table for people, or as JSON.

use std::io::{self, Write};

use strata_net::bridge::{Bridge, Guest, Port, PortKind};

const HEAD: [&str; 7] = [
    "BRIDGE",
    "STATE",
    "MTU",
    "ADDRESSES",
    "PORT",
    "KIND",
    "GUESTS",
];

pub(super) fn print(out: &mut dyn Write, bridges: &[Bridge], json: bool) -> io::Result<()> {
    if json {
        let text = serde_json::to_string_pretty(bridges)?;
        return writeln!(out, "{text}");
    }
    if bridges.is_empty() {
        return writeln!(
            out,
            "There is no bridge; make one by `strata net bridge create br0`."
        );
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    for bridge in bridges {
        rows.extend(rows_of(bridge));
    }
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// A line for each port and each address, whichever are more, the bridge itself on the first.
fn rows_of(bridge: &Bridge) -> Vec<[String; HEAD.len()]> {
    let count = bridge.ports.len().max(bridge.addresses.len()).max(1);
    let row = |index: usize| {
        let first = |text: String| if index == 0 { text } else { String::new() };
        let port = bridge.ports.get(index);
        [
            first(bridge.name.clone()),
            first(if bridge.up { "up" } else { "down" }.to_owned()),
            first(bridge.mtu.to_string()),
            bridge.addresses.get(index).cloned().unwrap_or_default(),
            port.map(|port| port.name.clone()).unwrap_or_default(),
            port.map(kind).unwrap_or_default().to_owned(),
            port.map(guests).unwrap_or_default(),
        ]
    };
    (0..count).map(row).collect()
}

fn kind(port: &Port) -> &'static str {
    match port.kind {
        PortKind::Tap => "tap",
        PortKind::Uplink => "uplink",
    }
}

fn guests(port: &Port) -> String {
    let name = |guest: &Guest| format!("{} ({})", guest.program, guest.pid);
    let names: Vec<_> = port.guests.iter().map(name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_port_and_address() {
        let port = |name: &str, kind, guests| Port {
            name: name.to_owned(),
            kind,
            up: true,
            guests,
        };
        let guest = Guest {
            pid: 42,
            program: "strata".to_owned(),
        };
        let bridge = Bridge {
            name: "br0".to_owned(),
            up: true,
            mtu: 1500,
            mac: "52:54:00:00:00:01".to_owned(),
            addresses: vec!["192.0.2.10/24".to_owned()],
            ports: vec![
                port("eth0", PortKind::Uplink, vec![]),
                port("tap0", PortKind::Tap, vec![guest]),
            ],
        };
        let mut out = Vec::new();
        print(&mut out, &[bridge], false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "BRIDGE  STATE  MTU   ADDRESSES      PORT  KIND    GUESTS\n\
             br0     up     1500  192.0.2.10/24  eth0  uplink\n\
             \x20                                   tap0  tap     strata (42)\n"
        );
    }

    #[test]
    fn no_bridge_is_said_with_what_to_do() {
        let mut out = Vec::new();
        print(&mut out, &[], false).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("create br0"));
    }
}
