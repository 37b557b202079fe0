//! What is typed, or comes in by the console's socket, on its way to a console.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{End, Finish, watch};
use crate::config::SerialTarget;
use crate::console::escape::{self, Command, Escape};
use crate::console::receiver::Receiver;
use crate::console::sink::{Client, Listener};
use crate::exit::Outcome;
use crate::sys;

/// One read's worth. While the guest takes nothing, input waits where it comes from, so that no
/// more than this is ever held.
const CHUNK: usize = 4096;

/// Where input comes from.
pub(super) enum Source {
    /// Standard input: a terminal, a pipe or a file.
    Stdin,
    /// A unix socket, with the stream of its present client.
    Socket {
        listener: Listener,
        client: Client,
        peer: Option<Peer>,
    },
}

/// A connected client: what it sends, and the descriptor that tells when it takes more.
pub(super) struct Peer {
    stream: UnixStream,
    writer: RawFd,
}

impl Source {
    /// The source that goes with `target`: none for those that only take output.
    pub(super) fn of(
        target: &SerialTarget,
        listener: Option<Listener>,
        client: Option<Client>,
    ) -> Option<Self> {
        match (target, listener, client) {
            (SerialTarget::Stdio, ..) => Some(Self::Stdin),
            (_, Some(listener), Some(client)) => Some(Self::Socket {
                listener,
                client,
                peer: None,
            }),
            _ => None,
        }
    }

    fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Stdin => Some(libc::STDIN_FILENO),
            Self::Socket { peer, .. } => peer.as_ref().map(|peer| peer.stream.as_raw_fd()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stdin => sys::read_stdin(buffer),
            Self::Socket {
                peer: Some(peer), ..
            } => peer.stream.read(buffer),
            Self::Socket { peer: None, .. } => Ok(0),
        }
    }
}

/// How the main loop learns that the source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// By epoll.
    Polled,
    /// Not now: the guest has yet to take what was read.
    Paused,
    /// A regular file can not be polled, and always has more until its end.
    File,
    /// The source is at its end.
    Ended,
}

/// Feeds the serial port, or the virtio console.
pub(super) struct Input {
    source: Source,
    watch: Watch,
    port: Arc<dyn Receiver>,
    pending: Vec<u8>,
    /// Ctrl-A commands, on an interactive console.
    escape: Option<Escape>,
    end: End,
}

impl Input {
    /// Input from `source` for `port`; `interactive` says whether Ctrl-A commands are taken out.
    pub(super) fn new(
        source: Source,
        port: Arc<dyn Receiver>,
        interactive: bool,
        end: End,
    ) -> Self {
        let escape = interactive.then(Escape::default);
        Self {
            source,
            watch: Watch::Ended,
            port,
            pending: Vec::new(),
            escape,
            end,
        }
    }

    /// Reads once and passes on what the guest takes.
    fn read(&mut self, ops: &mut EventOps<'_>) {
        let mut bytes = [0; CHUNK];
        match self.source.read(&mut bytes) {
            Ok(count) if count > 0 => self.take(&bytes[..count]),
            Err(error) if is_transient(&error) => return,
            ended => {
                if let Err(error) = ended {
                    log::warn!("the console's input can not be read any more: {error}");
                }
                return self.stop(ops);
            }
        }
        self.push(ops);
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(escape) = &mut self.escape else {
            self.pending.extend(bytes);
            return;
        };
        match escape.filter(bytes, &mut self.pending) {
            Some(Command::Leave) => self.end.set(Finish::Outside(Outcome::Left)),
            Some(Command::Help) => {
                let _ = io::stderr().write_all(escape::HELP.as_bytes());
            }
            None => {}
        }
    }

    /// Moves what the port takes. While it takes no more, reading stops; but an interactive
    /// console is read all the same, or Ctrl-A X would wait for the guest: what is typed beyond
    /// a chunk is dropped, as a terminal does with type-ahead.
    fn push(&mut self, ops: &mut EventOps<'_>) {
        loop {
            let taken = self.port.receive(&self.pending);
            self.pending.drain(..taken);
            if !self.pending.is_empty() {
                break;
            }
            match self.watch {
                Watch::Paused => return self.resume(ops),
                Watch::File => self.read_file(),
                Watch::Polled | Watch::Ended => return,
            }
            if self.watch == Watch::Ended {
                return;
            }
        }
        if self.escape.is_some() {
            self.pending.truncate(CHUNK);
        } else if self.watch == Watch::Polled {
            self.pause(ops);
        }
    }

    fn read_file(&mut self) {
        let mut bytes = [0; CHUNK];
        match self.source.read(&mut bytes) {
            Ok(count) if count > 0 => self.take(&bytes[..count]),
            _ => self.watch = Watch::Ended,
        }
    }

    fn start(&mut self, ops: &mut EventOps<'_>) {
        let Some(fd) = self.source.fd() else { return };
        // epoll refuses (EPERM) what can not be waited for: a regular file, /dev/null.
        if ops.add(Events::new_raw(fd, EventSet::IN)).is_ok() {
            self.watch = Watch::Polled;
        } else {
            self.watch = Watch::File;
            self.push(ops);
        }
    }

    /// Takes the source out of the loop: a mask of no events would not do, as epoll reports a
    /// hang-up all the same, without end.
    fn pause(&mut self, ops: &mut EventOps<'_>) {
        if let Some(fd) = self.source.fd() {
            let _ = ops.remove(Events::empty_raw(fd));
            self.watch = Watch::Paused;
        }
    }

    fn resume(&mut self, ops: &mut EventOps<'_>) {
        if let Some(fd) = self.source.fd() {
            let _ = ops.add(Events::new_raw(fd, EventSet::IN));
            self.watch = Watch::Polled;
        }
    }

    fn stop(&mut self, ops: &mut EventOps<'_>) {
        if self.watch == Watch::Polled {
            self.pause(ops);
        }
        self.watch = Watch::Ended;
        if let Source::Socket { client, peer, .. } = &mut self.source {
            if let Some(peer) = peer.take() {
                let _ = ops.remove(Events::empty_raw(peer.writer));
            }
            client.disconnect();
        }
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let Source::Socket { listener, .. } = &self.source else {
            return;
        };
        let Some(new) = listener.accept() else { return };
        self.stop(ops);
        self.pending.clear();
        let Source::Socket { client, peer, .. } = &mut self.source else {
            return;
        };
        match new.try_clone().and_then(|clone| client.connect(clone)) {
            Ok(writer) => {
                // By edges: it matters when a full socket empties, not while it is empty.
                let room = EventSet::OUT | EventSet::EDGE_TRIGGERED;
                watch(ops, Events::new_raw(writer, room));
                *peer = Some(Peer {
                    stream: new,
                    writer,
                });
            }
            Err(error) => log::warn!("a client of the serial socket is turned away: {error}"),
        }
        self.start(ops);
    }
}

impl MutEventSubscriber for Input {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.port.room().fd() {
            self.port.take_room();
            self.push(ops);
        } else if Some(events.fd()) == self.source.fd() {
            self.read(ops);
        } else if let Source::Socket {
            client,
            peer: Some(peer),
            ..
        } = &self.source
            && events.fd() == peer.writer
        {
            client.flush();
        } else {
            self.accept(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.port.room());
        if let Source::Socket { listener, .. } = &self.source {
            watch(ops, Events::new(listener, EventSet::IN));
        }
        self.start(ops);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
