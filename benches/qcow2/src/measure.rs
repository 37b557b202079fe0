//! Clocks and medians.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// User and system time of this process and of its children that have ended.
fn cpu(who: libc::c_int) -> Duration {
    // SAFETY: rusage is plain numbers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live rusage.
    unsafe { libc::getrusage(who, &mut usage) };
    let part = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

/// One measurement.
#[derive(Clone, Copy)]
pub struct Cost {
    pub cpu: Duration,
    pub wall: Duration,
}

/// What some work in this process costs.
pub fn here(work: impl FnOnce()) -> Cost {
    measure(libc::RUSAGE_SELF, work)
}

/// What the child processes that some work starts and waits for cost.
pub fn children(work: impl FnOnce()) -> Cost {
    measure(libc::RUSAGE_CHILDREN, work)
}

fn measure(who: libc::c_int, work: impl FnOnce()) -> Cost {
    let (cpu_before, start) = (cpu(who), Instant::now());
    work();
    Cost {
        cpu: cpu(who) - cpu_before,
        wall: start.elapsed(),
    }
}

/// Medians of CPU and wall time, in microseconds.
fn medians(rounds: &[Cost]) -> (f64, f64) {
    let median = |mut list: Vec<Duration>| {
        list.sort();
        list[list.len() / 2].as_secs_f64() * 1e6
    };
    (
        median(rounds.iter().map(|cost| cost.cpu).collect()),
        median(rounds.iter().map(|cost| cost.wall).collect()),
    )
}

/// Prints the medians of some rounds, per operation.
pub fn report(what: &str, who: &str, rounds: &[Cost], operations: u32) {
    let (cpu, wall) = medians(rounds);
    let (cpu, wall) = (cpu / f64::from(operations), wall / f64::from(operations));
    println!("{what:<34} {who:<10} {cpu:>12.2} us CPU {wall:>12.2} us wall");
}

/// What [`summary`] prints.
static VERDICTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn keep(line: String) {
    let mut lines = VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(line);
}

fn against(ratio: f64, bar: f64) -> String {
    let word = if ratio <= bar { "met" } else { "MISSED" };
    format!("{ratio:.2} ({word})")
}

/// Keeps how the medians of `ours` compare to those of `theirs`, which `bar` says the most of.
pub fn verdict(what: &str, ours: &[Cost], theirs: &[Cost], bar: f64) {
    let ((cpu, wall), (their_cpu, their_wall)) = (medians(ours), medians(theirs));
    let (cpu, wall) = (
        against(cpu / their_cpu, bar),
        against(wall / their_wall, bar),
    );
    keep(format!(
        "{what:<34} at most {bar:.2}: CPU {cpu:<14} wall {wall}"
    ));
}

/// The same for two sizes in bytes.
pub fn size_verdict(what: &str, ours: u64, theirs: u64, bar: f64) {
    let ratio = ours as f64 / theirs as f64;
    let word = if ratio <= bar { "met" } else { "MISSED" };
    keep(format!(
        "{what:<34} at most {bar:.2}: size {ratio:.4} ({word})"
    ));
}

/// Prints all verdicts.
pub fn summary() {
    let lines = VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    if !lines.is_empty() {
        println!("\nratios to qemu-img, medians, and their bars");
    }
    lines.iter().for_each(|line| println!("{line}"));
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = std::process::Command::new(program)
        .args(args)
        .output()
        .expect("a program");
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// Offsets of requests of `size` bytes, aligned, in an order without pattern.
pub fn random_offsets(count: u32, size: u64, span: u64) -> impl Iterator<Item = u64> {
    let mut state = 88172645463325252u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % (span / size) * size
    })
}
