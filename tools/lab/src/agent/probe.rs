//! Boots one guest and prints, as sections that the host reads, the trace of the boot and what the
//! monitor held when the guest's init spoke.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::sys;

const TRACING: &str = "/sys/kernel/tracing";
const COUNTERS: &str = "/sys/kernel/debug/kvm";
const EXEC: &str = "events/sched/sched_process_exec";
const ENTRY: &str = "events/kvm/kvm_entry";
const EXIT: &str = "events/kvm/kvm_exit";

/// The trigger of the first exit that ends the recording of entries.
const ONCE: &str = "disable_event:kvm:kvm_entry:1";

/// The histograms of `exits`: what they count.
const HISTOGRAMS: [(&str, &str); 5] = [
    ("kvm_exit", "exit_reason,guest_rip.hex"),
    ("kvm_pio", "port,rw"),
    ("kvm_mmio", "gpa.hex,type"),
    ("kvm_msr", "ecx.hex,write"),
    ("kvm_cpuid", "function.hex"),
];

/// The guest's console and the monitor's own messages, for a host that has lost its patience.
const CONSOLE: &str = "/tmp/vmm.console";
const STDERR: &str = "/tmp/vmm.stderr";

/// The period of level 1's timer in nanoseconds (Debian's kernels: HZ=250).
const TICK: i64 = 4_000_000;

/// Most console output that is kept, in bytes.
const MAX_CONSOLE: usize = 1 << 20;

/// Starts `argv` `phase` microseconds into a tick, waits at most `seconds` for `marker` in its
/// output, and reports; with `exits` also what the guest left for, which costs the boot time.
pub(crate) fn probe(
    exits: bool,
    marker: &str,
    seconds: &str,
    phase: &str,
    argv: &[&str],
) -> io::Result<()> {
    let [program, args @ ..] = argv else {
        return Err(io::Error::other("no program to start"));
    };
    let limit = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    histograms(exits)?;
    let start = arm(program)?;
    let before = counters()?;
    wait_for_phase(phase.parse().map_err(io::Error::other)?);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(STDERR)?)
        .spawn()?;
    // Held open: a monitor may take the end of its input for the user's leave.
    let _stdin = child.stdin.take();
    let seen = wait_for(marker, limit, &mut child, start)?;
    let report = if seen.marked {
        sample(child.id(), &before)?
    } else {
        String::new()
    };
    // A monitor that has ended already is as good.
    let _ = child.kill();
    let status = child.wait()?;
    set("tracing_on", "0")?;
    let mut out = io::stdout().lock();
    out.write_all(report.as_bytes())?;
    for (event, _) in HISTOGRAMS.iter().filter(|_| exits) {
        let path = Path::new(TRACING).join(format!("events/kvm/{event}/hist"));
        section(&mut out, event, &fs::read(path)?)?;
    }
    section(
        &mut out,
        "trace",
        &fs::read(Path::new(TRACING).join("trace"))?,
    )?;
    section(&mut out, "console", &seen.console)?;
    section(&mut out, "stderr", &fs::read(STDERR)?)?;
    section(&mut out, "status", status.to_string().as_bytes())?;
    section(&mut out, "marked", if seen.marked { b"yes" } else { b"no" })
}

/// Waits until level 1's clock is `phase` microseconds past a multiple of its tick: boots that
/// begin so meet the same ticks at the same places, and another phase shifts all of them.
fn wait_for_phase(phase: i64) {
    let past = (sys::monotonic() - phase * 1000).rem_euclid(TICK);
    thread::sleep(Duration::from_nanos((TICK - past).unsigned_abs()));
}

fn section(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    writeln!(out, "@{name} {}", bytes.len())?;
    out.write_all(bytes)?;
    writeln!(out)
}

/// Adds a setting to a file of tracefs. Opening one to truncate it would take histograms off.
fn set(file: &str, value: &str) -> io::Result<()> {
    let path = Path::new(TRACING).join(file);
    let written = File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|e| io::Error::other(format!("cannot write {value:?} to {path:?}: {e}")))
}

/// Empties the trace, or takes an event's histogram off.
fn clear(file: &str) -> io::Result<()> {
    File::create(Path::new(TRACING).join(file)).map(drop)
}

/// Records the monitor's exec and the first guest entry only: what the first exit disables leaves
/// the rest of the boot nearly undisturbed. The file takes the marker's own entry.
fn arm(program: &str) -> io::Result<File> {
    set("tracing_on", "0")?;
    clear("trace")?;
    set("trace_clock", "mono")?;
    set(
        &format!("{EXEC}/filter"),
        &format!("filename == \"{program}\""),
    )?;
    set(&format!("{EXEC}/enable"), "1")?;
    // Not there before the first run.
    let _ = set(&format!("{EXIT}/trigger"), &format!("!{ONCE}"));
    // A trigger that is set before the event is enabled would leave it disabled.
    set(&format!("{ENTRY}/enable"), "0")?;
    set(&format!("{ENTRY}/enable"), "1")?;
    set(&format!("{EXIT}/trigger"), ONCE)?;
    set("tracing_on", "1")?;
    File::options()
        .write(true)
        .open(Path::new(TRACING).join("trace_marker"))
}

/// Counts anew, or no longer.
fn histograms(wanted: bool) -> io::Result<()> {
    for (event, keys) in HISTOGRAMS {
        let trigger = format!("events/kvm/{event}/trigger");
        clear(&trigger)?;
        if wanted {
            set(&trigger, &format!("hist:keys={keys}:size=8192"))?;
        }
    }
    Ok(())
}

struct Seen {
    console: Vec<u8>,
    marked: bool,
}

/// Reads the monitor's output until the marker's line has come; then stops the monitor, so that
/// sampling sees it as it was.
fn wait_for(marker: &str, limit: Duration, child: &mut Child, mut trace: File) -> io::Result<Seen> {
    let mut stdout = child
        .stdout
        .take()
        .ok_or_else(|| io::Error::other("no output to read"))?;
    let pid = child.id().try_into().map_err(io::Error::other)?;
    let marker = marker.as_bytes().to_vec();
    let mut copy = File::create(CONSOLE)?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || -> io::Result<Seen> {
        let mut console = Vec::new();
        let mut buffer = [0; 4096];
        let mut marked = false;
        loop {
            let count = stdout.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            console.extend(&buffer[..count]);
            let from = console.len().saturating_sub(count + marker.len());
            if console[from..].windows(marker.len()).any(|w| w == marker) {
                trace.write_all(b"marker")?;
                sys::signal(pid, sys::SIGSTOP)?;
                marked = true;
                break;
            }
            copy.write_all(&buffer[..count])?;
            if console.len() > MAX_CONSOLE {
                break;
            }
        }
        // The other end may have given up.
        let _ = sender.send(());
        Ok(Seen { console, marked })
    });
    if receiver.recv_timeout(limit).is_err() {
        // Ends the output, and with it the reader.
        child.kill()?;
    }
    reader
        .join()
        .map_err(|_| io::Error::other("the console's reader died"))?
}

/// KVM's counters over all machines, by name.
fn counters() -> io::Result<Vec<(String, i64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(COUNTERS)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let value = fs::read_to_string(entry.path())?;
            if let (Ok(name), Ok(value)) = (entry.file_name().into_string(), value.trim().parse()) {
                all.push((name, value));
            }
        }
    }
    all.sort();
    Ok(all)
}

fn sample(pid: u32, before: &[(String, i64)]) -> io::Result<String> {
    let mut text = Vec::new();
    let mut lines = String::new();
    for ((name, after), (_, before)) in counters()?.iter().zip(before) {
        lines += &format!("{name} {}\n", after - before);
    }
    section(&mut text, "kvm", lines.as_bytes())?;
    section(&mut text, "smaps", &fs::read(format!("/proc/{pid}/smaps"))?)?;
    section(
        &mut text,
        "process",
        &fs::read(format!("/proc/{pid}/status"))?,
    )?;
    String::from_utf8(text).map_err(io::Error::other)
}
