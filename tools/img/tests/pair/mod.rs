//! The same command line through QEMU's programs and through ours.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one line of a script said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// A directory for each program, and the names under which both are called.
pub(crate) struct Pair {
    root: tempfile::TempDir,
}

pub(crate) fn qemu_is_there() -> bool {
    let version = Command::new("qemu-img").arg("--version").output();
    let there = version.is_ok_and(|v| v.stdout.starts_with(b"qemu-img version 10."));
    if !there {
        eprintln!("skipped: qemu-utils 10 is not installed");
    }
    there
}

impl Pair {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let pair = Self { root };
        let bin = pair.root.path().join("bin");
        for dir in [&bin, &pair.ours(), &pair.theirs()] {
            std::fs::create_dir(dir).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_strata-img"), bin.join("qemu-img")).unwrap();
        symlink(env!("CARGO_BIN_EXE_strata-io"), bin.join("qemu-io")).unwrap();
        pair
    }

    pub(crate) fn ours(&self) -> PathBuf {
        self.root.path().join("ours")
    }

    pub(crate) fn theirs(&self) -> PathBuf {
        self.root.path().join("theirs")
    }

    /// What ours and QEMU's say to a line.
    pub(crate) fn run(&self, line: &str) -> [Said; 2] {
        let bin = self.root.path().join("bin");
        [
            run(Some(&bin), &self.ours(), line),
            run(None, &self.theirs(), line),
        ]
    }
}

/// Words separated by blanks; single quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

pub(crate) fn run(bin: Option<&Path>, dir: &Path, line: &str) -> Said {
    let words = words(line);
    let program = bin.map_or_else(|| words[0].clone().into(), |bin| bin.join(&words[0]));
    let output = Command::new(program)
        .args(&words[1..])
        .current_dir(dir)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| steady(&String::from_utf8_lossy(bytes));
    Said {
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        code: output.status.code(),
    }
}

/// Leaves out what differs from run to run: times, random numbers, space on the host.
fn steady(text: &str) -> String {
    let varies = [
        "disk size:",
        "file length:",
        "\"actual-size\"",
        "uuid",
        "iters",
        " ops; ",
        "-sec\"",
        "Run completed in",
        "date-",
    ];
    let mut kept = String::new();
    // How long a file is depends on where its last cluster went.
    let of_file = |line: &str| line.starts_with("                \"virtual-size\"");
    let hint = |line: &str| line.starts_with("Try 'qemu-img");
    for line in text.lines().filter(|line| !hint(line) && !of_file(line)) {
        let cut = varies.iter().filter_map(|word| line.find(word)).min();
        kept.push_str(&unnamed(&undated(&line[..cut.unwrap_or(line.len())])));
        kept.push('\n');
    }
    kept
}

/// QEMU makes up a name of the image's where ours has that of the file.
fn unnamed(line: &str) -> String {
    const BEFORE: &str = "persistent in '";
    let name = line.find(BEFORE).map(|at| at + BEFORE.len());
    match name.and_then(|at| Some((at, at + line[at..].find('\'')?))) {
        Some((from, to)) => format!("{}{}", &line[..from], &line[to..]),
        None => line.into(),
    }
}

/// Snapshots are taken in two directories one after the other, on both sides of a second's end.
pub(crate) fn undated(line: &str) -> String {
    const SHAPE: &str = "0000-00-00 00:00:00";
    let is_date = |at: &usize| {
        let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
        let there = line.get(*at..*at + SHAPE.len());
        there.is_some_and(|text| text.chars().map(shape).eq(SHAPE.chars()))
    };
    match (0..line.len()).find(is_date) {
        Some(at) => format!("{}{SHAPE}{}", &line[..at], &line[at + SHAPE.len()..]),
        None => line.into(),
    }
}
