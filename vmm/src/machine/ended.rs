//! The news that a vCPU has ended, from its thread to the main loop.

use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_vcpu::ExitReason;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{End, Finish, watch};
use crate::error::Error;

/// Which vCPU ended first, and why.
#[derive(Debug)]
pub struct Ended {
    first: Mutex<Option<(u32, ExitReason)>>,
    event: EventFd,
}

impl Ended {
    /// Nobody has ended yet.
    ///
    /// # Errors
    /// [`Error::Host`] when no eventfd can be had.
    pub fn new() -> Result<Self, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        Ok(Self {
            first: Mutex::new(None),
            event,
        })
    }

    /// Says that vCPU `vcpu` has ended.
    pub fn report(&self, vcpu: u32, reason: &ExitReason) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (vcpu, reason.clone()));
        // It only fails when the counter is full, and then the loop is awake already.
        let _ = self.event.write(1);
    }

    /// Forgets who has ended: all have been revived.
    pub(super) fn clear(&self) {
        let _ = self.event.read();
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Who ended first, and why.
    pub(super) fn first(&self) -> Option<(u32, ExitReason)> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Ends the main loop when a vCPU has ended.
pub(super) struct EndedWatch {
    ended: Arc<Ended>,
    end: End,
}

impl EndedWatch {
    pub(super) fn new(ended: Arc<Ended>, end: End) -> Self {
        Self { ended, end }
    }
}

impl MutEventSubscriber for EndedWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.ended.event.read();
        self.end.set(Finish::Vcpu);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.ended.event, EventSet::IN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_end_is_remembered() {
        let ended = Ended::new().unwrap();
        assert_eq!(ended.first(), None);
        ended.report(1, &ExitReason::Reset);
        ended.report(0, &ExitReason::Stopped);
        assert_eq!(ended.first(), Some((1, ExitReason::Reset)));
        assert_eq!(ended.event.read().unwrap(), 2);
    }
}
