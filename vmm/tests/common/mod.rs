//! Payload guests for `strata run`: ELF files with a PVH entry, that run on KVM of any kind.
#![allow(
    unreachable_pub,
    reason = "a test has no other crate to be reached from"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses its own part of this module"
)]

mod elf;
mod machine;
mod payload;
mod pty;
mod qmp;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use machine::{Machine, piped, start};
pub use payload::{Payload, WRITES};
pub use pty::Pty;
pub use qmp::Qmp;

/// The most that any of these runs takes, on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `strata` with `args`.
pub fn strata(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A directory with a payload guest in it, removed when dropped.
pub struct Guest {
    dir: tempfile::TempDir,
}

impl Guest {
    /// Writes `payload` as an ELF file into a directory of its own.
    pub fn new(payload: Payload) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("guest"), elf::image(payload.code())).unwrap();
        Self { dir }
    }

    /// A path in the guest's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `strata run` with this guest as its kernel, and more arguments.
    pub fn run(&self, args: &[&str]) -> Command {
        let mut command = self.run_in("16M");
        command.args(args);
        command
    }

    /// The same, with memory of `size` and no more arguments yet.
    pub fn run_in(&self, size: &str) -> Command {
        let mut command = strata(&["run", "--pvm-kernel", "--memory", size, "--kernel"]);
        command.arg(self.path("guest"));
        command
    }
}

/// Waits for `child` to end, and fails the test (after killing it) when it does not.
pub fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let reader = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = reader(stdout.take().map(|s| Box::new(s) as _));
    let err = reader(stderr.take().map(|s| Box::new(s) as _));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            let _ = child.wait();
            panic!(
                "still running: {}",
                String::from_utf8_lossy(&err.join().unwrap())
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

/// Runs `command` to its end.
pub fn finish(mut command: Command) -> Output {
    wait(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}
