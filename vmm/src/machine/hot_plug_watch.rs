//! Devices that the guest has let go of, on their way out.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use serde_json::json;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::watch;
use crate::announce::{Announcer, qom_path};
use crate::devices::{Disks, Nets, Pci, Removed};
use crate::error::{Chain, Error};

/// How long a guest has to look at what it was told, before it is told again; then twice as long,
/// and so on up to [`MAX_PATIENCE`]. An interrupt that comes before its kernel listens is lost.
const PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(64);

/// Closes removed devices and tells of them, and reminds the guest of changes it has not looked at.
///
/// To end a device takes as long as its requests in flight and its image's flush: a thread of its
/// own waits for that, one for each device, only while it is removed.
pub(super) struct HotPlugWatch {
    pci: Arc<Pci>,
    disks: Rc<Disks>,
    nets: Rc<Nets>,
    announcer: Announcer,
    closing: Vec<Closing>,
    closed: Arc<Closed>,
    timer: TimerFd,
    /// How long the next reminder waits; none while nothing is to be reminded of.
    patience: Option<Duration>,
}

/// A device that is being closed.
struct Closing {
    id: String,
    thread: Option<JoinHandle<()>>,
}

/// The devices that are closed, from their threads.
struct Closed {
    ids: Mutex<Vec<String>>,
    event: EventFd,
}

impl HotPlugWatch {
    /// The watch of a bus with hot-plug; none for others.
    pub(super) fn new(
        pci: &Arc<Pci>,
        disks: &Rc<Disks>,
        nets: &Rc<Nets>,
        announcer: &Announcer,
    ) -> Result<Option<Self>, Error> {
        let host = |what| move |source| Error::Host { what, source };
        if pci.hot_plug_event().is_none() {
            return Ok(None);
        }
        let timer = TimerFd::new().map_err(|error| Error::Host {
            what: "create a timer",
            source: error.into(),
        })?;
        let event = EventFd::new(EFD_NONBLOCK).map_err(host("create an eventfd"))?;
        let ids = Mutex::default();
        Ok(Some(Self {
            pci: Arc::clone(pci),
            disks: Rc::clone(disks),
            nets: Rc::clone(nets),
            announcer: announcer.clone(),
            closing: Vec::new(),
            closed: Arc::new(Closed { ids, event }),
            timer,
            patience: None,
        }))
    }

    /// Closes a device, in a thread of its own if there can be one.
    fn close(&mut self, removed: Removed) {
        let Removed { id, device } = removed;
        let disk = self.disks.get(&id);
        let closed = Arc::clone(&self.closed);
        let work = {
            let id = id.clone();
            move || {
                device.stop();
                drop(device);
                if let Some(Err(error)) = disk.map(|disk| disk.close()) {
                    log::error!("{id} is removed, but: {}", Chain(&error));
                }
                let mut ids = closed.ids.lock().unwrap_or_else(PoisonError::into_inner);
                ids.push(id);
                let _ = closed.event.write(1);
            }
        };
        let thread = Builder::new().name("removal".to_owned()).spawn(work);
        let thread = thread
            .inspect_err(|error| log::error!("{id} stays half removed: no thread: {error}"))
            .ok();
        self.closing.push(Closing { id, thread });
    }

    /// Takes note of what is closed.
    fn finish(&mut self) {
        let _ = self.closed.event.read();
        let ids = std::mem::take(
            &mut *self
                .closed
                .ids
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for id in ids {
            if let Some(at) = self.closing.iter().position(|closing| closing.id == id) {
                self.closing.swap_remove(at).join();
            }
            self.disks.forget(&id);
            self.nets.forget(&id);
            self.pci.forget(&id);
            log::debug!("{id} is removed");
            self.announcer.announce(
                "DEVICE_DELETED",
                || json!({ "device": id, "path": qom_path(&id) }),
            );
        }
    }

    /// Sets the timer while there is something that the guest has not looked at.
    fn arm(&mut self) {
        if !self.pci.is_unseen() {
            self.patience = None;
        } else if self.patience.is_none() {
            self.patience = Some(PATIENCE);
            self.set_timer(PATIENCE);
        }
    }

    fn remind(&mut self) {
        let _ = self.timer.wait();
        if self.pci.remind() {
            let patience = self.patience.unwrap_or(PATIENCE).saturating_mul(2);
            let patience = patience.min(MAX_PATIENCE);
            self.patience = Some(patience);
            self.set_timer(patience);
        } else {
            self.patience = None;
        }
    }

    fn set_timer(&mut self, patience: Duration) {
        if let Err(error) = self.timer.reset(patience, None) {
            log::warn!("the guest is not reminded of a change on its PCI bus: {error}");
        }
    }
}

impl Closing {
    fn join(self) {
        if let Some(thread) = self.thread {
            // It has nothing left to do; a panic was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for HotPlugWatch {
    /// The machine's end waits for what is being closed.
    fn drop(&mut self) {
        self.closing.drain(..).for_each(Closing::join);
        self.finish();
    }
}

impl MutEventSubscriber for HotPlugWatch {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if events.fd() == self.closed.event.as_raw_fd() {
            self.finish();
        } else if events.fd() == self.timer.as_raw_fd() {
            self.remind();
        } else {
            let _ = self.pci.hot_plug_event().map(EventFd::read);
            for removed in self.pci.removed() {
                self.close(removed);
            }
            self.arm();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Some(changed) = self.pci.hot_plug_event() {
            watch(ops, Events::new(changed, EventSet::IN));
        }
        watch(ops, Events::new(&self.closed.event, EventSet::IN));
        watch(ops, Events::new(&self.timer, EventSet::IN));
    }
}
