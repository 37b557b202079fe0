//! The control socket and its clients, in the main loop.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_qmp::{Client, Commands, Event, Gone, Wants};

use super::{Control, commands};
use crate::console::sink::Listener;
use crate::machine::watch;

/// Clients at most; one more is turned away.
const MAX_CLIENTS: usize = 16;

/// Serves the clients of the control socket.
pub(crate) struct Server {
    listener: Listener,
    commands: Commands<Control>,
    control: Control,
    clients: Vec<Client<UnixStream>>,
}

impl Server {
    /// A server of `control`, whose clients come by `listener`.
    pub(crate) fn new(listener: Listener, control: Control) -> Self {
        Self {
            listener,
            commands: commands(),
            control,
            clients: Vec::new(),
        }
    }

    /// Queues the events that wait for every client, and sends what their streams take. Says what
    /// each client wants now, in their order.
    pub(crate) fn tell(&mut self) -> Vec<Result<Wants, Gone>> {
        let events = self.control.announcer().take();
        if events.is_empty() {
            return Vec::new();
        }
        let lines: Vec<u8> = events.iter().flat_map(Event::line).collect();
        let told = self.clients.iter_mut().map(|client| client.tell(&lines));
        told.collect()
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let Some(stream) = self.listener.accept() else {
            return;
        };
        if self.clients.len() >= MAX_CLIENTS {
            log::warn!("a client of the control socket is turned away: there are {MAX_CLIENTS}");
            return;
        }
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn!("a client of the control socket is turned away: {error}");
            return;
        }
        let fd = stream.as_raw_fd();
        if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
            log::warn!("a client of the control socket is turned away: {error}");
            return;
        }
        self.clients.push(Client::new(stream, &self.commands));
        self.serve(self.clients.len() - 1, ops);
    }

    fn serve(&mut self, index: usize, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        let wants = client.serve(&self.commands, &mut self.control);
        self.settle(index, wants, ops);
    }

    /// Waits for what a client wants, or lets go of one that is gone.
    fn settle(&mut self, index: usize, wants: Result<Wants, Gone>, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get(index) else {
            return;
        };
        let fd = client.stream().as_raw_fd();
        let wants = wants.and_then(|wants| {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, wants.read);
            set.set(EventSet::OUT, wants.write);
            ops.modify(Events::new_raw(fd, set))
                .map_err(|error| Gone::Stream(std::io::Error::other(error.to_string())))
        });
        if let Err(gone) = wants {
            match gone {
                Gone::Left => log::debug!("a client of the control socket has left"),
                gone => log::warn!("a client of the control socket is dropped: {gone}"),
            }
            // It can not fail for a descriptor that was added.
            let _ = ops.remove(Events::empty_raw(fd));
            self.clients.swap_remove(index);
        }
    }
}

impl MutEventSubscriber for Server {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        let announced = self.control.announcer().event().map(AsRawFd::as_raw_fd);
        if fd == self.listener.as_raw_fd() {
            self.accept(ops);
        } else if Some(fd) != announced {
            let mut clients = self.clients.iter();
            if let Some(index) = clients.position(|client| client.stream().as_raw_fd() == fd) {
                self.serve(index, ops);
            }
        }
        // What a command brought about is told at once. The last client comes first: to let go of
        // one moves only those behind it.
        for (index, wants) in self.tell().into_iter().enumerate().rev() {
            self.settle(index, wants, ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, Events::new(&self.listener, EventSet::IN));
        if let Some(announced) = self.control.announcer().event() {
            watch(ops, Events::new(announced, EventSet::IN));
        }
    }
}
