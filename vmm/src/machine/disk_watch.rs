//! Disks that can not go on pause the machine, if that is their policy.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::{Pace, Status, watch};
use crate::error::{Chain, Error};

/// Pauses the vCPUs when a disk asks for it.
pub(super) struct DiskWatch {
    stopped: EventFd,
    pace: Pace,
}

impl DiskWatch {
    pub(super) fn new(stopped: &EventFd, pace: Pace) -> Result<Self, Error> {
        let stopped = stopped.try_clone().map_err(|source| Error::Host {
            what: "share an eventfd",
            source,
        })?;
        Ok(Self { stopped, pace })
    }
}

impl MutEventSubscriber for DiskWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.stopped.read();
        if let Err(error) = self.pace.pause(Status::IoError) {
            log::error!("the machine can not be paused: {}", Chain(&error));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.stopped, EventSet::IN));
    }
}
