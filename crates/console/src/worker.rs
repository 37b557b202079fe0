//! Who moves bytes between queues and streams.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use strata_virtio::{Chain, Context, Error, EventSet, Queue, Worker};

use crate::control::{self, Control};
use crate::device::{MAX_PORTS, Shared, lock};
use crate::port::{Port, Stream};

/// Buffers that are served before other events have their turn.
const BATCH: usize = 16;
/// Bytes that are moved at once.
const CHUNK: usize = 4096;
/// Bytes of one buffer that are written before other events have their turn.
const MAX_AT_ONCE: u64 = 1 << 20;
/// Control messages that wait for room, at most: a guest that provokes more without taking any is
/// broken.
const MAX_WAITING: usize = 4 * MAX_PORTS;
/// The token of the handles' event; ports have their indices.
const NEWS: u32 = MAX_PORTS as u32;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// To the guest, by port.
    Receive(usize),
    /// From the guest, by port.
    Transmit(usize),
    /// Control messages to the guest.
    ControlReceive,
    /// Control messages from the guest.
    ControlTransmit,
}

/// The role of a queue (virtio 1.2, 5.3.2): port 0, then control, then the other ports.
fn role(index: u16) -> Role {
    let port = |index: u16| usize::from(index / 2).saturating_sub(1);
    match index {
        0 => Role::Receive(0),
        1 => Role::Transmit(0),
        2 => Role::ControlReceive,
        3 => Role::ControlTransmit,
        index if index.is_multiple_of(2) => Role::Receive(port(index)),
        index => Role::Transmit(port(index)),
    }
}

/// A port and where it stands.
struct Line {
    port: Port,
    /// Whether the guest takes bytes: always without control messages, otherwise when a program has
    /// opened it.
    open: bool,
    /// Whether the stream may have bytes for the guest.
    readable: bool,
    /// Whether the stream's other end has closed it.
    ended: bool,
    /// Whether the stream takes no bytes now.
    blocked: bool,
    /// Whether the size has changed while no program in the guest had the console open.
    resized: bool,
    /// Bytes of the next buffer that the stream has taken already.
    written: u64,
    /// What the stream is watched for.
    watched: EventSet,
}

impl Line {
    /// Puts a stream at the host's end and returns the one that was there.
    fn connect(&mut self, stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        self.readable = true;
        self.ended = false;
        self.blocked = false;
        self.port.stream.replace(stream)
    }

    fn watch(&mut self, token: u32, context: &mut Context<'_>) -> Result<(), Error> {
        self.watched = self.events();
        match &self.port.stream {
            Some(stream) => context.watch(&stream.as_raw_fd(), self.watched, token),
            None => Ok(()),
        }
    }

    fn events(&self) -> EventSet {
        let mut events = EventSet::empty();
        // Level triggered: watched for what could be used, or it would spin.
        if !self.readable && !self.ended {
            events |= EventSet::IN;
        }
        if self.blocked {
            events |= EventSet::OUT;
        }
        // A hang-up can not be masked, but an edge comes once.
        events | EventSet::EDGE_TRIGGERED
    }
}

pub(crate) struct ConsoleWorker {
    lines: Vec<Line>,
    /// Where the ports go when the device is reset.
    home: Arc<Mutex<Option<Vec<Port>>>>,
    shared: Arc<Shared>,
    multiport: bool,
    /// In the order of the context's queues.
    roles: Vec<Role>,
    /// Control messages for the guest.
    waiting: VecDeque<Vec<u8>>,
    chain: Chain,
}

impl ConsoleWorker {
    pub(crate) fn new(
        ports: Vec<Port>,
        home: Arc<Mutex<Option<Vec<Port>>>>,
        shared: Arc<Shared>,
        multiport: bool,
        queues: &[Queue],
    ) -> Self {
        let lines = ports.into_iter().map(|port| Line {
            open: !multiport,
            readable: true,
            ended: port.stream.is_none(),
            port,
            blocked: false,
            resized: false,
            written: 0,
            watched: EventSet::empty(),
        });
        Self {
            lines: lines.collect(),
            home,
            shared,
            multiport,
            roles: queues.iter().map(|queue| role(queue.index())).collect(),
            waiting: VecDeque::new(),
            chain: Chain::new(),
        }
    }

    fn queue<'a>(&self, role: Role, context: &'a mut Context<'_>) -> Option<&'a mut Queue> {
        let position = self.roles.iter().position(|r| *r == role)?;
        context.queues.get_mut(position)
    }

    /// Watches a port's stream for what is of use now. Only a change is said: a stream that was hung
    /// up reports that again each time.
    fn rewatch(&mut self, port: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let line = &mut self.lines[port];
        let events = line.events();
        if events == line.watched {
            return Ok(());
        }
        let Some(stream) = &line.port.stream else {
            return Ok(());
        };
        line.watched = events;
        context.rewatch(&stream.as_raw_fd(), events, port as u32)
    }

    /// Moves bytes from a port's stream into the guest's buffers.
    fn receive(&mut self, port: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(queue) = self.queue(Role::Receive(port), context) else {
            return Ok(());
        };
        let Some(line) = self.lines.get_mut(port) else {
            return Ok(());
        };
        let mut served = 0;
        while line.open && line.readable && !line.ended && served < BATCH {
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            let mut bytes = [0; CHUNK];
            let room = self.chain.writable.len().min(CHUNK as u64) as usize;
            if room == 0 {
                return Err(Error::Driver("a receive buffer without room"));
            }
            let Some(stream) = &mut line.port.stream else {
                queue.unpop();
                break;
            };
            match stream.read(&mut bytes[..room]) {
                Ok(0) => {
                    line.ended = true;
                    queue.unpop();
                }
                Ok(count) => {
                    let written = self.chain.writable.write(queue.memory(), &bytes[..count]);
                    written.map_err(|source| queue.error(source))?;
                    queue.push(self.chain.head(), count as u32)?;
                    served += 1;
                }
                Err(error) => {
                    queue.unpop();
                    match error.kind() {
                        ErrorKind::Interrupted => {}
                        ErrorKind::WouldBlock => line.readable = false,
                        _ => line.ended = true,
                    }
                }
            }
        }
        queue.notify()?;
        if served == BATCH {
            queue.kick()?;
        }
        self.rewatch(port, context)
    }

    /// Moves the guest's bytes into a port's stream. What the stream does not take stays in the
    /// queue, and holds the guest's writer.
    fn transmit(&mut self, port: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(queue) = self.queue(Role::Transmit(port), context) else {
            return Ok(());
        };
        let Some(line) = self.lines.get_mut(port) else {
            return Ok(());
        };
        let mut served = 0;
        while !line.blocked && served < BATCH {
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            served += 1;
            if write_chain(line, &mut self.chain, queue)? {
                queue.push(self.chain.head(), 0)?;
            } else {
                served = BATCH;
            }
        }
        queue.notify()?;
        if served == BATCH && !line.blocked {
            queue.kick()?;
        }
        self.rewatch(port, context)
    }

    /// The guest's control messages (5.3.6.2).
    fn controlled(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        for _ in 0..BATCH {
            let Some(queue) = self.queue(Role::ControlTransmit, context) else {
                return Ok(());
            };
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                return queue.notify();
            }
            let message: Result<[u8; Control::SIZE], _> =
                self.chain.readable.read_obj(queue.memory());
            let message = message.map_err(|source| queue.error(source))?;
            queue.push(self.chain.head(), 0)?;
            self.obey(Control::from_bytes(message), context)?;
        }
        match self.queue(Role::ControlTransmit, context) {
            Some(queue) => queue.notify().and_then(|()| queue.kick()),
            None => Ok(()),
        }
    }

    fn obey(&mut self, message: Control, context: &mut Context<'_>) -> Result<(), Error> {
        let port = message.port as usize;
        match (message.event, message.value) {
            (control::DEVICE_READY, 1) => {
                for port in 0..self.lines.len() as u32 {
                    self.tell(port, control::PORT_ADD, 1, &[])?;
                }
            }
            (control::PORT_READY, 1) => self.introduce(message.port)?,
            (control::PORT_OPEN, value) => {
                if let Some(line) = self.lines.get_mut(port) {
                    line.open = value == 1;
                    if line.open && std::mem::take(&mut line.resized) {
                        self.tell_size(message.port)?;
                        self.send(context)?;
                    }
                    return self.receive(port, context);
                }
            }
            // A driver that could not make a port, or what is not for us.
            _ => {}
        }
        self.send(context)
    }

    /// What the guest has to know of a port.
    fn introduce(&mut self, port: u32) -> Result<(), Error> {
        let Some(line) = self.lines.get(port as usize) else {
            return Err(Error::Driver("it is ready for a port that is not there"));
        };
        if line.port.name.is_empty() {
            self.tell(port, control::CONSOLE_PORT, 1, &[])?;
            self.tell_size(port)?;
        } else {
            let name = line.port.name.clone();
            self.tell(port, control::PORT_NAME, 1, name.as_bytes())?;
        }
        self.tell(port, control::PORT_OPEN, 1, &[])
    }

    fn tell_size(&mut self, port: u32) -> Result<(), Error> {
        // Columns, rows. Linux before 2025 took them for rows, columns.
        let size = self.shared.size.load(Ordering::Acquire).to_le_bytes();
        let (event, value) = (control::RESIZE, 0);
        let head = Control { port, event, value }.to_bytes();
        // The host may change the size as often as it likes while the guest takes no messages: one
        // that waits tells the new one.
        if let Some(waiting) = self.waiting.iter_mut().find(|m| m.starts_with(&head)) {
            waiting.truncate(Control::SIZE);
            waiting.extend(size);
            return Ok(());
        }
        self.tell(port, event, value, &size)
    }

    fn tell(&mut self, port: u32, event: u16, value: u16, more: &[u8]) -> Result<(), Error> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Error::Driver("it takes no control messages"));
        }
        let mut message = Control { port, event, value }.to_bytes().to_vec();
        message.extend_from_slice(more);
        self.waiting.push_back(message);
        Ok(())
    }

    /// The stream that has come for a port, if there is one.
    fn arrived(&self, port: usize) -> Option<Box<dyn Stream>> {
        let arrived = &self.shared.arrived;
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.get_mut(port).and_then(Option::take)
    }

    /// Puts the streams that have come at the host's ends.
    fn connect_arrived(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        for port in 0..self.lines.len() {
            let Some(stream) = self.arrived(port) else {
                continue;
            };
            let line = &mut self.lines[port];
            if let Some(old) = line.connect(stream) {
                context.unwatch(&old.as_raw_fd())?;
            }
            line.watch(port as u32, context)?;
            self.transmit(port, context)?;
            self.receive(port, context)?;
        }
        Ok(())
    }

    /// Tells the guest its consoles' size if it is new.
    fn resize(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if !self.shared.resized.swap(false, Ordering::AcqRel) || !self.multiport {
            return Ok(());
        }
        for port in 0..self.lines.len() {
            let line = &mut self.lines[port];
            if !line.port.name.is_empty() {
                continue;
            }
            line.resized = !line.open;
            if line.open {
                self.tell_size(port as u32)?;
            }
        }
        self.send(context)
    }

    /// Gives the guest the control messages that it has room for.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(queue) = self.queue(Role::ControlReceive, context) else {
            return Ok(());
        };
        while let Some(message) = self.waiting.front() {
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            let written = self.chain.writable.write(queue.memory(), message);
            let written = written.map_err(|source| queue.error(source))?;
            queue.push(self.chain.head(), written as u32)?;
            self.waiting.pop_front();
        }
        queue.notify()
    }
}

/// Writes a chain to a stream, and says whether the chain is done. Otherwise it is back in its queue,
/// with note taken of what was written of it: the stream takes no more, or it is others' turn.
fn write_chain(line: &mut Line, chain: &mut Chain, queue: &mut Queue) -> Result<bool, Error> {
    let mut bytes = [0; CHUNK];
    let before = std::mem::take(&mut line.written);
    let mut done = before;
    chain.readable.consume(done);
    while done - before < MAX_AT_ONCE {
        let count = chain.readable.read(queue.memory(), &mut bytes);
        let count = count.map_err(|source| queue.error(source))?;
        if count == 0 {
            return Ok(true);
        }
        let mut left = &bytes[..count];
        while !left.is_empty() && !line.blocked {
            match write(line, left) {
                Some(written) => {
                    left = &left[written..];
                    done += written as u64;
                }
                None => line.blocked = true,
            }
        }
        if line.blocked {
            break;
        }
    }
    line.written = done;
    queue.unpop();
    Ok(false)
}

/// Bytes that the stream took; `None` if it takes none now. Nobody at its other end takes all.
fn write(line: &mut Line, bytes: &[u8]) -> Option<usize> {
    let Some(stream) = &mut line.port.stream else {
        return Some(bytes.len());
    };
    loop {
        let result: io::Result<usize> = stream.write(bytes);
        match result {
            Ok(count) if count > 0 => return Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return Some(bytes.len()),
        }
    }
}

impl Worker for ConsoleWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        context.watch(&self.shared.news, EventSet::IN, NEWS)?;
        for port in 0..self.lines.len() {
            // Before the guest's first bytes, which would be for nobody.
            let stream = self.arrived(port);
            let line = &mut self.lines[port];
            stream.and_then(|stream| line.connect(stream));
            line.watch(port as u32, context)?;
        }
        // Without control messages, Linux reads the size when it has changed and at no other time.
        if let Some(change) = self.shared.change.get()
            && !self.multiport
            && self.shared.size.load(Ordering::Acquire) != 0
        {
            change.change(|| {});
        }
        Ok(())
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        match self.roles[queue] {
            Role::Receive(port) => self.receive(port, context),
            Role::Transmit(port) => self.transmit(port, context),
            Role::ControlReceive => self.send(context),
            Role::ControlTransmit => self.controlled(context),
        }
    }

    fn ready(
        &mut self,
        token: u32,
        events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        if token == NEWS {
            let _ = self.shared.news.read();
            self.connect_arrived(context)?;
            return self.resize(context);
        }
        let port = token as usize;
        let Some(line) = self.lines.get_mut(port) else {
            return Ok(());
        };
        if events.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR) {
            line.readable = true;
        }
        if events.intersects(EventSet::OUT | EventSet::HANG_UP | EventSet::ERROR) {
            line.blocked = false;
        }
        self.transmit(port, context)?;
        self.receive(port, context)
    }
}

impl Drop for ConsoleWorker {
    fn drop(&mut self) {
        let ports = self.lines.drain(..).map(|line| line.port);
        *lock(&self.home) = Some(ports.collect());
    }
}
