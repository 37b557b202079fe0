//! Whether the machine runs.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::Value;
use strata_vcpu::VcpuThread;

use crate::announce::Announcer;
use crate::devices::Disks;
use crate::error::Error;

/// Whether the machine runs, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its vCPUs have yet to be let go.
    Prelaunch,
    /// It runs.
    Running,
    /// It was paused on request.
    Paused,
    /// A disk can not go on.
    IoError,
    /// It has ended.
    Shutdown,
}

impl Status {
    /// The status in QMP's words (`RunState`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::IoError => "io-error",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The vCPUs, by which the parts of the main loop pause the machine and let it go on.
#[derive(Clone)]
pub struct Pace(Rc<Inner>);

struct Inner {
    vcpus: Rc<Vec<VcpuThread>>,
    disks: Rc<Disks>,
    announcer: Announcer,
    status: Cell<Status>,
}

impl Pace {
    pub(super) fn new(vcpus: Rc<Vec<VcpuThread>>, disks: Rc<Disks>, announcer: Announcer) -> Self {
        Self(Rc::new(Inner {
            vcpus,
            disks,
            announcer,
            status: Cell::new(Status::Prelaunch),
        }))
    }

    /// Whether the machine runs.
    pub fn status(&self) -> Status {
        self.0.status.get()
    }

    /// How many vCPUs the machine has.
    pub fn vcpus(&self) -> usize {
        self.0.vcpus.len()
    }

    /// Lets the vCPUs run for the first time.
    pub(super) fn start(&self) -> Result<(), Error> {
        for vcpu in self.0.vcpus.iter() {
            vcpu.resume()?;
        }
        self.0.status.set(Status::Running);
        Ok(())
    }

    /// Pauses the vCPUs, for the reason that `status` says; without effect on those that are paused.
    ///
    /// # Errors
    /// [`Error::Vcpu`].
    pub fn pause(&self, status: Status) -> Result<(), Error> {
        match self.status() {
            Status::Running => {}
            Status::Paused => {
                self.0.status.set(status);
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.halt()?;
        self.0.status.set(status);
        self.0.announcer.announce("STOP", || Value::Null);
        Ok(())
    }

    /// Pauses the vCPUs and tells nobody: for what they are not to see, and their user neither.
    pub(super) fn halt(&self) -> Result<(), Error> {
        // All are asked before the first is waited for.
        for vcpu in self.0.vcpus.iter() {
            vcpu.request_pause()?;
        }
        for vcpu in self.0.vcpus.iter() {
            vcpu.pause()?;
        }
        Ok(())
    }

    /// Lets vCPUs go on that were halted, unless the machine is paused.
    pub(super) fn end_halt(&self) -> Result<(), Error> {
        match self.status() {
            Status::Running => self.start(),
            _ => Ok(()),
        }
    }

    /// Lets paused vCPUs go on, and tries again what a disk could not do; without effect on vCPUs
    /// that run.
    ///
    /// # Errors
    /// [`Error::Vcpu`].
    pub fn resume(&self) -> Result<(), Error> {
        self.0.disks.retry();
        if !matches!(self.status(), Status::Paused | Status::IoError) {
            return Ok(());
        }
        for vcpu in self.0.vcpus.iter() {
            match vcpu.resume() {
                // The main loop has yet to hear of it.
                Err(strata_vcpu::Error::Ended { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.0.status.set(Status::Running);
        self.0.announcer.announce("RESUME", || Value::Null);
        Ok(())
    }

    /// The machine has ended.
    pub(super) fn end(&self) {
        self.0.status.set(Status::Shutdown);
    }
}
