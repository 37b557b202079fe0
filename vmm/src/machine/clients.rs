//! Programs that connect to the sockets of the virtio console's ports.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_console::ConsoleHandle;

use super::watch;
use crate::console::sink::Listener;

/// Connects each to its port, in place of the one before.
pub(super) struct Clients {
    console: ConsoleHandle,
    listeners: Vec<(usize, Listener)>,
}

impl Clients {
    pub(super) fn new(console: ConsoleHandle, listeners: Vec<(usize, Listener)>) -> Self {
        Self { console, listeners }
    }
}

impl MutEventSubscriber for Clients {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let Some((port, listener)) = self.listeners.get(events.data() as usize) else {
            return;
        };
        let Some(stream) = listener.accept() else {
            return;
        };
        let connected = stream
            .set_nonblocking(true)
            .and_then(|()| self.console.connect(*port, stream));
        if let Err(error) = connected {
            log::warn!("a client of the virtio console is turned away: {error}");
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for ((_, listener), index) in self.listeners.iter().zip(0..) {
            watch(ops, Events::with_data(listener, index, EventSet::IN));
        }
    }
}
