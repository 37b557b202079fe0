//! What was before a change, and the way back to it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::files::{self, FileContents, file_error};
use super::ipconfig::{self, IpConfig};
use super::{Change, Host};
use crate::netlink::Netlink;
use crate::{Error, InterfaceName};

/// The journal's format.
const VERSION: u32 = 1;

/// Which way a change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// From the uplink to a bridge that was not there.
    Create,
    /// From a bridge to its uplink.
    Delete,
}

/// How things were.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub operation: Operation,
    pub bridge: String,
    pub uplink: Option<String>,
    /// Configures the interface that had the configuration before.
    pub changes: Vec<ipconfig::Change>,
    /// What files held.
    pub files: Vec<FileContents>,
}

impl Record {
    pub(crate) fn new(operation: Operation, bridge: &InterfaceName) -> Self {
        Self {
            version: VERSION,
            operation,
            bridge: bridge.to_string(),
            uplink: None,
            changes: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// The right to change bridges, held by one process of the host at a time.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it gives the lock up")] File);

fn directory(host: &Host) -> PathBuf {
    host.run_dir("strata/net")
}

fn lock_file(host: &Host) -> Result<File, Error> {
    // The first thing that a user without rights meets.
    let file_error = |action, path: &Path, source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::LinkDenied {
            action: "change",
            name: "bridges".to_owned(),
        },
        _ => file_error(action, path, source),
    };
    let dir = directory(host);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|source| file_error("make", &dir, source))?;
    let path = dir.join("lock");
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| file_error("open", &path, source))
}

impl Lock {
    /// Takes the lock, or says that another holds it.
    pub(crate) fn take(host: &Host) -> Result<Self, Error> {
        let file = lock_file(host)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::BridgesLocked),
            Err(TryLockError::Error(source)) => Err(file_error("lock", &directory(host), source)),
        }
    }

    fn wait(host: &Host) -> Result<Self, Error> {
        let file = lock_file(host)?;
        file.lock()
            .map_err(|source| file_error("lock", &directory(host), source))?;
        Ok(Self(file))
    }
}

/// A change under way: dropped without [`Journal::commit`], it stays for [`recover`].
pub(crate) struct Journal {
    path: PathBuf,
    pub record: Record,
    guard: Option<Child>,
}

impl Journal {
    /// Writes down what is, and starts the guard.
    pub(crate) fn begin(host: &Host, record: Record, change: &mut Change) -> Result<Self, Error> {
        let path = directory(host).join(format!("{}.json", record.bridge));
        let mut journal = Self {
            path,
            record,
            guard: None,
        };
        journal.write()?;
        if let Some(command) = &mut change.guard {
            let started = start(command).inspect_err(|_| {
                // Nothing has been changed yet.
                let _ = fs::remove_file(&journal.path);
            });
            journal.guard = Some(started.map_err(|source| Error::Guard { source })?);
        }
        Ok(journal)
    }

    fn write(&self) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| file_error("write", &self.path, error.into()))?;
        files::replace(&self.path, &text).map_err(|source| file_error("write", &self.path, source))
    }

    /// Writes files, of which the journal says before what they held.
    pub(crate) fn write_files(&mut self, wanted: &[FileContents]) -> Result<Vec<PathBuf>, Error> {
        for file in wanted {
            self.record.files.push(FileContents::read(&file.path)?);
        }
        self.write()?;
        for file in wanted {
            file.write()?;
        }
        Ok(wanted.iter().map(|file| file.path.clone()).collect())
    }

    /// There is no way back from here.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(|source| file_error("remove", &self.path, source))?;
        self.dismiss();
        Ok(())
    }

    /// Goes back because of `why`, and returns it, with what went wrong on the way.
    pub(crate) fn roll_back(mut self, why: Error) -> Error {
        let problems = undo(&self.record);
        if problems.is_empty() {
            let _ = fs::remove_file(&self.path);
        }
        self.dismiss();
        match (problems.is_empty(), why) {
            (true, why) => why,
            (false, why) => Error::RollBack {
                why: Box::new(why),
                problems: problems.join("; "),
                journal: self.path,
            },
        }
    }

    /// Ends the guard, which has nothing to guard any more. It would wait for the lock, which this
    /// process holds, to see that.
    fn dismiss(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

/// Starts a guard, and waits until it says that it is ready.
fn start(command: &mut Command) -> io::Result<Child> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = [0];
    // The pipe stays open: a guard that says more must not die of it.
    let said = child
        .stdout
        .as_mut()
        .map(|stdout| stdout.read_exact(&mut ready));
    match said {
        Some(Ok(())) => Ok(child),
        _ => {
            drop(child.stdin.take());
            let status = child.wait()?;
            Err(io::Error::other(format!("it ended at once ({status})")))
        }
    }
}

/// Goes back from every change that was left half done, and says which bridges they were of.
///
/// # Errors
/// [`Error::RollBack`] when a step fails; [`Error::BridgesLocked`] while another process is at it.
pub fn recover(host: &Host) -> Result<Vec<String>, Error> {
    recover_locked(host, &Lock::take(host)?)
}

pub(crate) fn recover_locked(host: &Host, _lock: &Lock) -> Result<Vec<String>, Error> {
    let dir = directory(host);
    let entries = fs::read_dir(&dir).map_err(|source| file_error("read", &dir, source))?;
    let mut recovered = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|source| file_error("read", &dir, source))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let read =
                fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
            let record = read.map_err(|source| file_error("read", &path, source))?;
            if record.version != VERSION {
                let source = io::Error::other("it is of another version of strata");
                return Err(file_error("use", &path, source));
            }
            let problems = undo(&record);
            if !problems.is_empty() {
                return Err(Error::RollBack {
                    why: Box::new(Error::HalfDone {
                        bridge: record.bridge,
                    }),
                    problems: problems.join("; "),
                    journal: path,
                });
            }
            fs::remove_file(&path).map_err(|source| file_error("remove", &path, source))?;
            recovered.push(record.bridge);
        }
    }
    Ok(recovered)
}

/// The guard of a change: says on `ready` that it is there, and waits until `input` ends, which it
/// does when the process at its other end is done or dead. Then goes back from what that process
/// left half done; returns those bridges.
///
/// # Errors
/// Those of [`recover`], and [`Error::Guard`] when `ready` can not be written.
pub fn guard(
    host: &Host,
    mut input: impl Read,
    mut ready: impl Write,
) -> Result<Vec<String>, Error> {
    let said = ready.write_all(b"\n").and_then(|()| ready.flush());
    said.map_err(|source| Error::Guard { source })?;
    let mut buffer = [0; 64];
    // An input that fails has ended too.
    while input.read(&mut buffer).is_ok_and(|count| count > 0) {}
    recover_locked(host, &Lock::wait(host)?)
}

/// Takes every step back; says what failed.
fn undo(record: &Record) -> Vec<String> {
    let mut problems = Vec::new();
    for file in record.files.iter().rev() {
        if let Err(error) = file.write() {
            problems.push(error.to_string());
        }
    }
    if let Err(error) = undo_links(record, &mut problems) {
        problems.push(error.to_string());
    }
    problems
}

fn undo_links(record: &Record, problems: &mut Vec<String>) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let bridge = netlink
        .link(&record.bridge)?
        .filter(|link| link.is_bridge());
    let uplink = match &record.uplink {
        Some(name) => netlink.link(name)?,
        None => None,
    };
    if let (Some(name), None) = (&record.uplink, &uplink) {
        problems.push(format!("{name} is gone"));
    }
    let mut attempt = |what: String, result: io::Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{what}: {error}"));
        }
    };
    let configured = match record.operation {
        Operation::Create => {
            if let Some(link) = uplink.as_ref().filter(|link| link.master.is_some()) {
                let freed = netlink.set_master(link.index, None);
                attempt(format!("free {}", link.name), freed);
            }
            if let Some(link) = &bridge {
                let deleted = netlink.delete_link(link.index);
                attempt(format!("delete {}", link.name), deleted);
            }
            uplink
        }
        Operation::Delete => {
            if let (Some(port), Some(master)) = (&uplink, &bridge) {
                let config = IpConfig::read(&mut netlink, port)?;
                let cleared = config.remove_addresses(&mut netlink);
                attempt(format!("clear {}", port.name), cleared);
                if port.master != Some(master.index) {
                    let enslaved = netlink.set_master(port.index, Some(master.index));
                    attempt(format!("make {} a port", port.name), enslaved);
                }
            }
            bridge
        }
    };
    if configured.is_some() {
        for change in &record.changes {
            let replayed = netlink.replay(&change.message);
            attempt(change.what.clone(), replayed);
        }
    }
    Ok(())
}
