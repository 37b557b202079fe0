//! Whether the machine runs.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use strata_vcpu::VcpuThread;

use crate::announce::Announcer;
use crate::devices::{Disks, Pci};
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

/// The vCPUs and devices, by which the parts of the main loop pause the machine and let it go on.
#[derive(Clone)]
pub struct Pace(Rc<Inner>);

struct Inner {
    vcpus: Rc<Vec<VcpuThread>>,
    pci: Arc<Pci>,
    disks: Rc<Disks>,
    announcer: Announcer,
    status: Cell<Status>,
}

impl Pace {
    pub(super) fn new(
        vcpus: Rc<Vec<VcpuThread>>,
        pci: Arc<Pci>,
        disks: Rc<Disks>,
        announcer: Announcer,
    ) -> Self {
        Self(Rc::new(Inner {
            vcpus,
            pci,
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

    /// Pauses the machine, for the reason that `status` says; one that is paused only
    /// flushes its disks again.
    ///
    /// When it returns, nothing that the guest has asked for is in flight, and what was written is
    /// durable: the disks' files are complete, and stay as they are. What failed and waits, and what
    /// a limit holds back, does so until the machine goes on. A flush that fails is told, and the
    /// machine is paused all the same.
    ///
    /// # Errors
    /// [`Error::Vcpu`].
    pub fn pause(&self, status: Status) -> Result<(), Error> {
        match self.status() {
            Status::Running => {}
            before @ (Status::Paused | Status::IoError) => {
                if before == Status::Paused {
                    self.0.status.set(status);
                }
                self.0.disks.flush();
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.halt()?;
        self.0.status.set(status);
        self.0.pci.pause();
        self.0.disks.flush();
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

    /// Lets a paused machine go on, and tries again what a disk could not do; without effect on
    /// vCPUs that run.
    ///
    /// # Errors
    /// [`Error::Vcpu`].
    pub fn resume(&self) -> Result<(), Error> {
        self.0.disks.retry();
        if !matches!(self.status(), Status::Paused | Status::IoError) {
            return Ok(());
        }
        self.0.pci.resume();
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
