//! Reads what the probe in level 1 reports.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// What one boot cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Seconds of level 1's clock from the monitor's exec to the first entry into the guest.
    pub first_entry_s: f64,
    /// Seconds from the monitor's exec to the marker of the guest's init.
    pub marker_s: f64,
    /// Exits from the guest, of all kinds, up to the marker.
    pub exits: i64,
    /// Exits for port I/O.
    pub io_exits: i64,
    /// Exits for accesses to memory that no memory slot has.
    pub mmio_exits: i64,
    /// Nested page faults.
    pub npt_faults: i64,
    /// Memory of the monitor beside the guest's, in KiB (proportional set size): all but its
    /// writable mappings of at least an eighth of the guest's memory.
    pub vmm_pss_kb: u64,
    /// Threads of the monitor.
    pub threads: u64,
    /// What the guest said up to the marker, and with it.
    pub console: String,
    /// All of KVM's counters that are not zero.
    pub counters: BTreeMap<String, i64>,
}

/// The parts of a report, by name.
pub(crate) type Sections = BTreeMap<String, Vec<u8>>;

/// Splits a report into its sections: `@name length`, the bytes, an end of line.
pub(crate) fn sections(mut report: &[u8]) -> Option<Sections> {
    let mut sections = BTreeMap::new();
    while !report.is_empty() {
        let end = report.iter().position(|b| *b == b'\n')?;
        let header = std::str::from_utf8(&report[..end])
            .ok()?
            .strip_prefix('@')?;
        let (name, length) = header.split_once(' ')?;
        let start = end + 1;
        let end = start.checked_add(length.parse().ok()?)?;
        sections.insert(name.to_string(), report.get(start..end)?.to_vec());
        report = report.get(end + 1..)?;
    }
    Some(sections)
}

impl Cost {
    /// Reads the sections of a boot that reached its marker.
    pub(crate) fn read(sections: &Sections, memory_mib: u32) -> Result<Self> {
        let text = |name: &str| {
            let bytes = sections.get(name).ok_or_else(|| missing(name))?;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let trace = text("trace")?;
        let at = |event: &str| timestamp(&trace, event).ok_or_else(|| missing(event));
        let start = at("sched_process_exec:")?;
        let counters: BTreeMap<_, _> = pairs(&text("kvm")?).filter(|(_, n)| *n != 0).collect();
        let counter = |name: &str| counters.get(name).copied().unwrap_or_default();
        let threads = text("process")?;
        let threads = threads
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        let threads = threads.and_then(|n| n.trim().parse().ok());
        Ok(Self {
            first_entry_s: at("kvm_entry:")? - start,
            marker_s: at("tracing_mark_write:")? - start,
            exits: counter("exits"),
            io_exits: counter("io_exits"),
            mmio_exits: counter("mmio_exits"),
            npt_faults: counter("pf_taken"),
            vmm_pss_kb: beside_guest(&text("smaps")?, memory_mib),
            threads: threads.ok_or_else(|| missing("number of threads"))?,
            console: text("console")?,
            counters,
        })
    }
}

fn missing(what: &str) -> Error {
    Error::Report {
        what: what.to_string(),
    }
}

/// The time of the first event of this name in an ftrace text, in seconds:
/// `task-pid [cpu] flags 12.345678: name: ...`.
fn timestamp(trace: &str, event: &str) -> Option<f64> {
    let events = trace.lines().filter(|line| !line.starts_with('#'));
    let found = events.filter_map(|line| line.split_once(&format!(": {event}")));
    found
        .filter_map(|(before, _)| before.split_whitespace().last()?.parse().ok())
        .next()
}

fn pairs(text: &str) -> impl Iterator<Item = (String, i64)> {
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_string(), number.parse().ok()?))
    })
}

/// The proportional set size of the mappings that are not the guest's memory, in KiB.
fn beside_guest(smaps: &str, memory_mib: u32) -> u64 {
    let threshold = u64::from(memory_mib) * 1024 / 8;
    let number = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    };
    let (mut sum, mut guest, mut writable) = (0, false, false);
    for line in smaps.lines() {
        if let Some(size) = number(line, "Size:") {
            guest = writable && size >= threshold;
        } else if let Some(pss) = number(line, "Pss:") {
            sum += if guest { 0 } else { pss };
        } else if let Some(permissions) = mapping(line) {
            writable = permissions.contains('w');
        }
    }
    sum
}

/// The permissions in the first line of a mapping: `start-end rw-p offset ...`.
fn mapping(line: &str) -> Option<&str> {
    let (range, rest) = line.split_once(' ')?;
    range.split_once('-')?;
    rest.split(' ')
        .next()
        .filter(|permissions| permissions.len() == 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n#\n\
        strata-93 [000] .....    10.250000: sched_process_exec: filename=/root/strata pid=93\n\
        <...>-95  [000] d..1.    10.270000: kvm_entry: vcpu 0, rip 0x1000000\n\
        lab-agent-92 [000] .....    10.700001: tracing_mark_write: marker\n";

    const SMAPS: &str = "\
        00400000-00500000 r-xp 00000000 00:02 7  /root/strata\n\
        Size:               1024 kB\nRss:                 900 kB\nPss:                 800 kB\n\
        7f0000000000-7f0010000000 rw-p 00000000 00:00 0 \n\
        Size:             262144 kB\nRss:               90000 kB\nPss:               90000 kB\n\
        7f1000000000-7f1004000000 r--p 00000000 00:02 9  /root/kernel\n\
        Size:              65536 kB\nRss:                  40 kB\nPss:                  40 kB\n\
        7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0  [stack]\n\
        Size:                132 kB\nRss:                  12 kB\nPss:                  12 kB\n";

    fn report() -> Vec<u8> {
        let mut report = Vec::new();
        for (name, text) in [
            (
                "kvm",
                "exits 1200\nfpu_reload 0\nio_exits 300\npf_taken 41\n",
            ),
            ("smaps", SMAPS),
            ("process", "Name:\tstrata\nThreads:\t2\n"),
            ("trace", TRACE),
            ("console", "READY"),
        ] {
            report.extend(format!("@{name} {}\n{text}\n", text.len()).as_bytes());
        }
        report
    }

    #[test]
    fn a_report_is_read() {
        let cost = Cost::read(&sections(&report()).unwrap(), 256).unwrap();
        assert!((cost.first_entry_s - 0.02).abs() < 1e-6);
        assert!((cost.marker_s - 0.450_001).abs() < 1e-6);
        assert_eq!((cost.exits, cost.io_exits, cost.mmio_exits), (1200, 300, 0));
        assert_eq!(
            (cost.npt_faults, cost.vmm_pss_kb, cost.threads),
            (41, 852, 2)
        );
        assert_eq!(cost.console, "READY");
        assert!(!cost.counters.contains_key("fpu_reload"));
    }

    #[test]
    fn a_cut_report_is_refused() {
        let whole = report();
        assert!(sections(&whole[..whole.len() - 10]).is_none());
        let mut sections = sections(&whole).unwrap();
        sections.insert("trace".into(), b"# tracer: nop\n".to_vec());
        let error = Cost::read(&sections, 256).unwrap_err().to_string();
        assert!(error.contains("sched_process_exec"), "{error}");
    }

    #[test]
    fn small_guests_memory_is_told_from_the_monitors() {
        assert_eq!(beside_guest(SMAPS, 256), 852);
        assert_eq!(beside_guest(SMAPS, 8192), 90852);
    }
}
