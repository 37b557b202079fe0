//! A running level 1.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cpio::Archive;
use crate::error::{Error, Result, tail};
use crate::port::Port;
use crate::process::{Output, Process};
use crate::protocol::Spawn;
use crate::qmp::Qmp;
use crate::recipe::{self, Config};

/// How long level 1 may take to boot, also on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// How long writing or reading a state may take.
const MIGRATION_LIMIT: Duration = Duration::from_secs(120);

/// How long moving files may take.
const COPY_LIMIT: Duration = Duration::from_secs(300);

/// How often a level 1 whose clock runs wrong is booted again before it is given up.
const CLOCK_TRIES: usize = 5;

/// A file to place in level 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Where: an absolute path. Its directories are made.
    pub path: String,
    /// For instance 0o755.
    pub permissions: u32,
    /// What.
    pub contents: Vec<u8>,
}

/// A running level 1. It ends when this is dropped, or when its owner dies.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    qmp: Option<Qmp>,
    port: Port,
    console: Arc<Mutex<Vec<u8>>>,
}

impl Machine {
    /// Starts the level 1 of `base` from `state`.
    pub(crate) fn restore(base: &Path, config: &Config, state: &Path) -> Result<Self> {
        let quoted = state.display().to_string().replace('\'', r"'\''");
        let mut machine = Self::start(
            base,
            config,
            &["-incoming", &format!("exec:cat '{quoted}'")],
        )?;
        machine.control(|qmp| {
            // "paused" is how the machine was saved.
            qmp.wait("query-status", MIGRATION_LIMIT, |r| r["status"] == "paused")?;
            qmp.call("cont", Value::Null).map(drop)
        })?;
        Ok(machine)
    }

    /// Boots the level 1 of `base` and saves its state to `state`.
    pub(crate) fn boot_and_save(base: &Path, config: &Config, state: &Path) -> Result<()> {
        let mut tries = 0;
        let mut machine = loop {
            let mut machine = Self::start(base, config, &[])?;
            if !machine.port.wait_ready(BOOT_LIMIT) {
                return Err(machine.lost("did not come up"));
            }
            if config.icount || machine.clock_is_right()? {
                break machine;
            }
            tries += 1;
            if tries == CLOCK_TRIES {
                return Err(machine.lost("keeps a wrong clock: build the lab on a quieter host"));
            }
        };
        let quoted = state.display().to_string().replace('\'', r"'\''");
        machine.control(|qmp| {
            qmp.call("stop", Value::Null)?;
            qmp.call(
                "migrate",
                json!({ "uri": format!("exec:cat > '{quoted}'") }),
            )?;
            qmp.wait("query-migrate", MIGRATION_LIMIT, |r| {
                r["status"] == "completed"
            })
        })
    }

    /// Whether a second of level 1 is a second of the host's: a calibration of its TSC that the
    /// host's load disturbed would be saved with it.
    fn clock_is_right(&mut self) -> Result<bool> {
        let uptime = |machine: &Self| -> Result<f64> {
            let output = machine.run(&["cut", "-d ", "-f1", "/proc/uptime"], COPY_LIMIT)?;
            Ok(output.stdout_text().trim().parse().unwrap_or_default())
        };
        let (host, guest) = (Instant::now(), uptime(self)?);
        thread::sleep(Duration::from_secs(2));
        let passed = uptime(self)? - guest;
        Ok((passed / host.elapsed().as_secs_f64() - 1.0).abs() < 0.05)
    }

    fn start(base: &Path, config: &Config, more: &[&str]) -> Result<Self> {
        let socket = Error::file("create", "a socket pair");
        let (port, agent) = UnixStream::pair().map_err(socket)?;
        let (qmp, control) = UnixStream::pair().map_err(Error::file("create", "a socket pair"))?;
        let mut command = recipe::command(base, config);
        let mut qemu = command
            .args(more)
            .stdin(OwnedFd::from(agent))
            .stdout(OwnedFd::from(control))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::file("start", command.get_program()))?;
        // The command still holds the far ends; without them, an end of QEMU is seen.
        drop(command);
        let console = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = qemu.stderr.take() {
            collect(stderr, Arc::clone(&console));
        }
        let port = Port::new(port)?;
        let mut machine = Self {
            qemu,
            qmp: None,
            port,
            console,
        };
        match Qmp::new(qmp) {
            Ok(qmp) => machine.qmp = Some(qmp),
            Err(_) => return Err(machine.lost("could not be started")),
        }
        Ok(machine)
    }

    fn control(&mut self, talk: impl FnOnce(&mut Qmp) -> Result<()>) -> Result<()> {
        match self.qmp.as_mut().map(talk) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) if self.is_running() => Err(error),
            _ => Err(self.lost("has ended")),
        }
    }

    fn is_running(&mut self) -> bool {
        // QEMU's socket closes a little before QEMU has ended.
        thread::sleep(Duration::from_millis(50));
        matches!(self.qemu.try_wait(), Ok(None))
    }

    /// The error that shows what level 1 said last.
    fn lost(&self, state: &'static str) -> Error {
        // The console's reader may still have a line to take.
        thread::sleep(Duration::from_millis(50));
        Error::Level1 {
            state,
            console: self.console_tail(),
        }
    }

    /// The end of level 1's own console and of QEMU's messages.
    pub fn console_tail(&self) -> String {
        self.console
            .lock()
            .map_or_else(|_| String::new(), |console| tail(&console, 4000))
    }

    /// Starts a program of level 1, on a terminal of its own if rows and columns are given.
    ///
    /// # Errors
    /// [`Error::Level1`] if level 1 has ended.
    pub fn spawn(&self, argv: &[&str], terminal: Option<(u16, u16)>) -> Result<Process> {
        let argv: Vec<String> = argv.iter().map(|a| a.to_string()).collect();
        let name = argv.join(" ");
        let process = self.port.spawn(&Spawn { terminal, argv });
        let process = process.map_err(|_| self.lost("has ended"))?;
        Ok(Process::new(name, process, Arc::clone(&self.console)))
    }

    /// Runs a program with no input to its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it takes longer than `limit`, [`Error::Level1`] if level 1 ends.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        let process = self.spawn(argv, None)?;
        process.close_input()?;
        process.wait(limit)
    }

    /// Places files in level 1's memory file system.
    ///
    /// # Errors
    /// As [`Machine::run`], and [`Error::Failed`] if they do not fit.
    pub fn put(&self, files: &[Upload]) -> Result<()> {
        let mut archive = Archive::new();
        for file in files {
            archive.file(&file.path, file.permissions, &file.contents);
        }
        let process = self.spawn(&["sh", "-c", "cd / && exec cpio -idu"], None)?;
        process.write(&archive.finish())?;
        process.close_input()?;
        process.wait(COPY_LIMIT)?.checked("cpio -i").map(drop)
    }

    /// The contents of a file in level 1.
    ///
    /// # Errors
    /// As [`Machine::run`], and [`Error::Failed`] if it can not be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(&["cat", path], COPY_LIMIT)?;
        Ok(output.checked(&format!("cat {path}"))?.stdout)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Keeps the end of what QEMU and level 1's console say.
fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<Vec<u8>>>) {
    const KEPT: usize = 64 << 10;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let Ok(mut text) = to.lock() else { return };
            text.extend(&buffer[..count]);
            let excess = text.len().saturating_sub(2 * KEPT);
            if excess > 0 {
                text.drain(..excess + KEPT);
            }
        }
    });
}
