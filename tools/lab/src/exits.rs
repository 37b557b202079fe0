//! What a guest left for: the histograms of KVM's trace events, by kind and place.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::report::Sections;

/// A kind of exit, or of what an exit was for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exits {
    /// How many.
    pub count: u64,
    /// What: the exit's reason and the guest's function, or the port, register, leaf or address.
    pub what: String,
}

/// Exit codes of AMD-V (APM volume 2, appendix C) that a boot meets.
const REASONS: [(u64, &str); 14] = [
    (0x10, "write cr0"),
    (0x13, "write cr3"),
    (0x14, "write cr4"),
    (0x41, "debug"),
    (0x60, "interrupt"),
    (0x61, "nmi"),
    (0x64, "interrupt window"),
    (0x72, "cpuid"),
    (0x78, "hlt"),
    (0x7b, "port I/O"),
    (0x7c, "msr"),
    (0x81, "hypercall"),
    (0x8d, "xsetbv"),
    (0x400, "nested page fault"),
];

/// Where a kernel that was not moved has its text.
const TEXT: u64 = 0xffff_ffff_8100_0000;

/// The functions of a kernel that was not moved, by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Reads `/proc/kallsyms` of a kernel that was moved.
    pub(crate) fn read(kallsyms: &str) -> Self {
        let symbols = kallsyms.lines().filter_map(|line| {
            let [address, _, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            Some((u64::from_str_radix(address, 16).ok()?, name))
        });
        let symbols: BTreeMap<_, _> = symbols.collect();
        let text = symbols.iter().find(|(_, name)| **name == "_text");
        let Some((&text, _)) = text else {
            return Self::default();
        };
        let named = symbols
            .range(text..)
            .map(|(at, name)| (at - text + TEXT, name.to_string()));
        Self(named.collect())
    }

    fn name(&self, address: u64) -> String {
        match self.0.range(..=address).next_back() {
            Some((_, name)) => name.clone(),
            None => format!("{address:#x}"),
        }
    }
}

/// Reads the probe's histograms, most frequent first.
pub(crate) fn read(sections: &Sections, symbols: &Symbols) -> Result<Vec<Exits>> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in ["kvm_exit", "kvm_pio", "kvm_mmio", "kvm_msr", "kvm_cpuid"] {
        let bytes = sections.get(event).ok_or_else(|| Error::Report {
            what: event.to_string(),
        })?;
        for line in String::from_utf8_lossy(bytes).lines() {
            if let Some((keys, count)) = entry(line) {
                *counts.entry(describe(event, &keys, symbols)).or_default() += count;
            }
        }
    }
    let mut exits: Vec<_> = counts
        .into_iter()
        .map(|(what, count)| Exits { count, what })
        .collect();
    exits.sort_by(|a, b| b.cmp(a));
    Ok(exits)
}

/// Reads `{ key: value, key: value } hitcount: n`; values may be hexadecimal as their key says.
fn entry(line: &str) -> Option<(BTreeMap<String, u64>, u64)> {
    let (keys, count) = line.strip_prefix('{')?.split_once("} hitcount:")?;
    let pair = |text: &str| {
        let (name, value) = text.split_once(':')?;
        let (name, value) = (name.trim().to_string(), value.trim());
        let radix = if HEXADECIMAL.contains(&name.as_str()) {
            16
        } else {
            10
        };
        Some((name, u64::from_str_radix(value, radix).ok()?))
    };
    Some((
        keys.split(',').filter_map(pair).collect(),
        count.trim().parse().ok()?,
    ))
}

/// The keys that the probe asks for in hexadecimal.
const HEXADECIMAL: [&str; 4] = ["guest_rip", "gpa", "ecx", "function"];

fn describe(event: &str, keys: &BTreeMap<String, u64>, symbols: &Symbols) -> String {
    let key = |name: &str| keys.get(name).copied().unwrap_or_default();
    let way = |name: &str| if key(name) == 0 { "read" } else { "write" };
    match event {
        "kvm_exit" => {
            let reason = REASONS.iter().find(|(code, _)| *code == key("exit_reason"));
            let reason = reason.map_or_else(
                || format!("exit {:#x}", key("exit_reason")),
                |(_, name)| name.to_string(),
            );
            format!("{reason} in {}", symbols.name(key("guest_rip")))
        }
        "kvm_pio" => format!("{} of port {:#x}", way("rw"), key("port")),
        // KVM_TRACE_MMIO_WRITE is 2; an access that waits for userspace counts as unsatisfied, 0.
        "kvm_mmio" if key("type") == 2 => format!("write of address {:#x}", key("gpa")),
        "kvm_mmio" => format!("read of address {:#x}", key("gpa")),
        "kvm_msr" => format!("{} of msr {:#x}", way("write"), key("ecx")),
        _ => format!("cpuid leaf {:#x}", key("function")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_read_and_places_named() {
        let kallsyms = "0000000000000000 A early\nffffffffa5000000 T _text\n\
                        ffffffffa5000100 t native_cpuid\nffffffffa5000200 T b\t[module]\n";
        let symbols = Symbols::read(kallsyms);
        let mut sections: Sections = BTreeMap::new();
        for (event, text) in [
            (
                "kvm_exit",
                "# event histogram\n\n\
                 { exit_reason:        114, guest_rip: ffffffff81000110 } hitcount:         40\n\
                 { exit_reason:        114, guest_rip: ffffffff81000120 } hitcount:          2\n\
                 { exit_reason:       1024, guest_rip:           fff0 } hitcount:          1\n\
                 Totals:\n    Hits: 43\n",
            ),
            (
                "kvm_pio",
                "{ port:       1016, rw:          1 } hitcount:          7\n",
            ),
            (
                "kvm_mmio",
                "{ gpa: fec00010, type:          2 } hitcount:         3\n",
            ),
            (
                "kvm_msr",
                "{ ecx: 6e0, write:          1 } hitcount:         88\n",
            ),
            ("kvm_cpuid", "{ function: 80000001 } hitcount:          9\n"),
        ] {
            sections.insert(event.into(), text.as_bytes().to_vec());
        }
        let exits = read(&sections, &symbols).unwrap();
        let lines: Vec<_> = exits
            .iter()
            .map(|e| format!("{} {}", e.count, e.what))
            .collect();
        assert_eq!(
            lines,
            [
                "88 write of msr 0x6e0",
                "42 cpuid in native_cpuid",
                "9 cpuid leaf 0x80000001",
                "7 write of port 0x3f8",
                "3 write of address 0xfec00010",
                "1 nested page fault in 0xfff0",
            ]
        );
        sections.remove("kvm_msr");
        assert!(read(&sections, &symbols).is_err());
    }
}
