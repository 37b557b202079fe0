//! Level 1 of the lab: the host on which the tests run `strata`.

use std::time::Duration;
use std::{fs, panic};

use strata_lab::{Config, Lab, Machine, Output, Process, Upload};

use crate::{Guest, strata};

/// How long a command or a guest may take on a host under load. Nothing waits that long otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A restored level 1 with `strata` on its path. A failure in it fails the test.
pub struct Level1 {
    machine: Machine,
    releases: Vec<(&'static str, String)>,
}

impl Level1 {
    /// The usual one: one CPU, 1 GiB.
    #[track_caller]
    pub fn restore() -> Self {
        Self::restore_with(Config::default())
    }

    /// One of this size and clock.
    #[track_caller]
    pub fn restore_with(config: Config) -> Self {
        let lab = ok(Lab::open(progress));
        let machine = ok(lab.restore(&config));
        let releases = lab.kernels().iter().map(|k| (k.series, k.release.clone()));
        let releases = releases.collect();
        let level1 = Self { machine, releases };
        let contents = fs::read(strata()).unwrap_or_else(|e| panic!("strata: {e}"));
        level1.put("/bin/strata", 0o755, &contents);
        level1
    }

    /// Places a file.
    #[track_caller]
    pub fn put(&self, path: &str, permissions: u32, contents: &[u8]) {
        ok(self.machine.put(&[Upload {
            path: path.to_owned(),
            permissions,
            contents: contents.to_vec(),
        }]));
    }

    /// The contents of a file.
    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<u8> {
        ok(self.machine.get(path))
    }

    /// What a shell script prints, without the last end of line. It must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = ok(self.machine.run(&["sh", "-c", script], PATIENCE));
        ok(output.checked(script))
            .stdout_text()
            .trim_end()
            .to_owned()
    }

    /// A number that a shell script prints.
    #[track_caller]
    pub fn number(&self, script: &str) -> u64 {
        let text = self.sh(script);
        text.parse()
            .unwrap_or_else(|_| panic!("{script} gives no number but {text:?}"))
    }

    /// Runs a program to its end, whatever that is.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Output {
        ok(self.machine.run(argv, PATIENCE))
    }

    /// Starts a program, on a terminal or with pipes.
    #[track_caller]
    pub fn spawn(&self, argv: &[&str], terminal: Option<(u16, u16)>) -> Process {
        ok(self.machine.spawn(argv, terminal))
    }

    /// Starts a guest: see [`Guest::start`].
    #[track_caller]
    pub fn boot(&self, args: &[&str]) -> Guest<'_> {
        Guest::start(self, args)
    }

    /// The release of the lab's kernel of this series, as `uname -r` says it.
    pub fn release(&self, series: &str) -> &str {
        let found = self.releases.iter().find(|(known, _)| *known == series);
        found.map_or("", |(_, release)| release)
    }
}

fn progress(text: &str) {
    eprintln!("lab: {text}");
}

/// The value, or a failed test that says what the lab says.
#[track_caller]
pub(crate) fn ok<T>(result: strata_lab::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
