//! Events for the clients of the control socket, from any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strata_block::{ErrorPolicy, Failure, Operation};
use strata_qmp::Event;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::Error;

/// Events that wait for the main loop at most; those beyond are lost.
const MAX_WAITING: usize = 1024;

/// Where events are announced. Without a control socket there is nobody to hear of them.
#[derive(Clone, Debug, Default)]
pub struct Announcer(Option<Arc<Waiting>>);

#[derive(Debug)]
struct Waiting {
    events: Mutex<VecDeque<Event>>,
    changed: EventFd,
}

impl Announcer {
    /// An announcer that is heard.
    ///
    /// # Errors
    /// [`Error::Host`] when no eventfd can be had.
    pub fn new() -> Result<Self, Error> {
        let changed = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        Ok(Self(Some(Arc::new(Waiting {
            events: Mutex::default(),
            changed,
        }))))
    }

    /// Announces that something has just happened; `data` is asked for only if somebody listens.
    pub fn announce(&self, name: &'static str, data: impl FnOnce() -> Value) {
        let Some(waiting) = &self.0 else { return };
        let event = Event::now(name, data());
        let mut events = waiting
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if events.len() < MAX_WAITING {
            events.push_back(event);
        } else {
            log::warn!("too many events at once: {name} is not told");
        }
        drop(events);
        // It only fails when the counter is full, and then the main loop is awake already.
        let _ = waiting.changed.write(1);
    }

    /// Readable when there are events; none if nobody listens.
    pub fn event(&self) -> Option<&EventFd> {
        self.0.as_ref().map(|waiting| &waiting.changed)
    }

    /// Takes the events that wait.
    pub fn take(&self) -> VecDeque<Event> {
        let Some(waiting) = &self.0 else {
            return VecDeque::new();
        };
        let _ = waiting.changed.read();
        std::mem::take(
            &mut *waiting
                .events
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Where the object of a device is, in the words of QEMU's clients.
pub fn qom_path(id: &str) -> String {
    format!("/machine/peripheral/{id}")
}

/// BLOCK_IO_ERROR of one disk. A guest makes them as fast as it likes, and clients are dropped that
/// do not keep up: so no more than one a second is told.
#[derive(Debug)]
pub struct BlockIoError {
    announcer: Announcer,
    id: String,
    node: String,
    last: Mutex<Option<Instant>>,
}

impl BlockIoError {
    const PAUSE: Duration = Duration::from_secs(1);

    /// The event of the disk `id`, which shows `node`.
    pub fn new(announcer: &Announcer, id: &str, node: Option<&str>) -> Self {
        Self {
            announcer: announcer.clone(),
            id: id.to_owned(),
            node: node.unwrap_or_default().to_owned(),
            last: Mutex::default(),
        }
    }

    /// Announces a failure, if the last one is long enough ago.
    pub fn announce(&self, failure: &Failure) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        let operation = match failure.operation {
            Operation::Read => "read",
            _ => "write",
        };
        let action = match failure.policy {
            ErrorPolicy::Report => "report",
            ErrorPolicy::Stop => "stop",
            ErrorPolicy::Ignore => "ignore",
        };
        self.announcer.announce("BLOCK_IO_ERROR", || {
            json!({
                "device": self.id,
                "qom-path": qom_path(&self.id),
                "node-name": self.node,
                "operation": operation,
                "action": action,
                "nospace": failure.no_space,
                "reason": failure.reason,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_a_disk_is_not_heard_too_often() {
        let announcer = Announcer::new().unwrap();
        for _ in 0..MAX_WAITING + 10 {
            announcer.announce("STOP", || Value::Null);
        }
        assert_eq!(announcer.take().len(), MAX_WAITING);
        let errors = BlockIoError::new(&announcer, "d", None);
        for _ in 0..10 {
            errors.announce(&Failure {
                operation: Operation::Flush,
                policy: ErrorPolicy::Report,
                no_space: true,
                reason: "full".to_owned(),
            });
        }
        let events = announcer.take();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].data["operation"], "write");
    }

    #[test]
    fn nobody_listens_and_nothing_is_kept() {
        let announcer = Announcer::default();
        announcer.announce("STOP", || panic!("it is asked for"));
        assert!(announcer.take().is_empty() && announcer.event().is_none());
    }
}
