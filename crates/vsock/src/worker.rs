//! Who moves packets between queues and streams.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strata_virtio::{Chain, Context, Error, EventSet, Queue, Segments, Worker};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::connection::{Connection, End, Greeting, Next, Ports};
use crate::device::lock;
use crate::host::Host;
use crate::packet::{Header, STREAM, op};
use crate::table::Table;
use crate::{HOST_CID, MAX_CONNECTIONS};

/// Indices of the queues (virtio 1.2, 5.10.2).
const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;

/// Packets that are moved before other events have their turn.
const BATCH: usize = 64;
/// Resets that wait for room, at most, before the guest's packets are no longer looked at: it has to
/// take what it provokes (virtio 1.2, 5.10.6.1).
const MAX_RESETS: usize = 256;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const TRANSPORT_RESET: u32 = 0;

/// Tokens of what is watched; connections have their slots.
const LISTENER: u32 = MAX_CONNECTIONS as u32;
const RESET: u32 = LISTENER + 1;
const RETRY: u32 = RESET + 1;

/// How long a program waits at least that could not be accepted.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct VsockWorker {
    cid: u64,
    host: Option<Host>,
    /// Where the socket goes when the device is reset.
    home: Arc<Mutex<Option<Host>>>,
    transport_reset: Arc<EventFd>,
    /// Runs while programs wait that could not be accepted.
    retry: TimerFd,
    /// Whether the last one could not be, which is told once.
    refused: bool,
    /// The indices of the context's queues.
    queues: Vec<u16>,
    table: Table,
    /// What the guest has to hear of connections that are not in the table.
    resets: VecDeque<Header>,
    /// Whether the guest's packets wait until it has taken some of those.
    held: bool,
    /// Whether the guest has to hear that its connections are gone.
    event_due: bool,
    chain: Chain,
    /// Where the header of a received packet goes, while its bytes are read.
    front: Segments,
}

impl VsockWorker {
    pub(crate) fn new(
        cid: u64,
        host: Host,
        home: Arc<Mutex<Option<Host>>>,
        transport_reset: Arc<EventFd>,
        retry: TimerFd,
        queues: &[Queue],
    ) -> Self {
        Self {
            cid,
            host: Some(host),
            home,
            transport_reset,
            retry,
            refused: false,
            queues: queues.iter().map(Queue::index).collect(),
            table: Table::default(),
            resets: VecDeque::new(),
            held: false,
            event_due: false,
            chain: Chain::new(),
            front: Segments::default(),
        }
    }

    /// The position of a queue, if the driver has it.
    fn position(&self, index: u16) -> Option<usize> {
        self.queues.iter().position(|queue| *queue == index)
    }
}

impl VsockWorker {
    /// Takes up what the guest sends.
    fn transmitted(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(tx) = self.position(TX) else {
            return Ok(());
        };
        let mut served = 0;
        while served < BATCH && !self.held {
            let queue = &mut context.queues[tx];
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            served += 1;
            self.packet(tx, context)?;
            context.queues[tx].push(self.chain.head(), 0)?;
            self.held = self.resets.len() >= MAX_RESETS;
        }
        context.queues[tx].notify()?;
        if served == BATCH {
            context.queues[tx].kick()?;
        }
        self.send(context)
    }

    /// One packet of the guest's.
    fn packet(&mut self, tx: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &context.queues[tx];
        let mut bytes = [0; Header::SIZE];
        let count = self.chain.readable.read(queue.memory(), &mut bytes);
        let count = count.map_err(|source| queue.error(source))?;
        let header = Header::from_bytes(&bytes);
        if count < Header::SIZE || u64::from(header.len) > self.chain.readable.len() {
            return Err(Error::Driver("a packet that is shorter than it says"));
        }
        if header.src_cid != self.cid {
            // Not the guest's own: there is nobody to answer.
            return Ok(());
        }
        if header.kind != STREAM || header.dst_cid != HOST_CID {
            self.reset(&header);
            return Ok(());
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        match self.table.find(ports) {
            Some(slot) => self.packet_of(slot, &header, tx, context),
            None if header.op == op::REQUEST => {
                self.connect(ports, &header, context);
                Ok(())
            }
            None => {
                self.reset(&header);
                Ok(())
            }
        }
    }

    /// A packet of a connection that there is.
    fn packet_of(
        &mut self,
        slot: u32,
        header: &Header,
        tx: usize,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let Some(connection) = self.table.get(slot) else {
            return Ok(());
        };
        connection.credit(header);
        match header.op {
            op::RST => connection.finish(End::Silent),
            op::RESPONSE => connection.answered(),
            _ if !connection.is_open() => connection.finish(End::Reset),
            op::RW => {
                let queue = &context.queues[tx];
                connection
                    .deliver(queue.memory(), &mut self.chain.readable, header.len)
                    .map_err(|source| queue.error(source))?;
            }
            op::SHUTDOWN => connection.shut_down(header.flags),
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => connection.want_room(),
            _ => connection.finish(End::Reset),
        }
        self.settle(slot, context);
        Ok(())
    }

    /// The guest asks for a connection to a port of the host's.
    fn connect(&mut self, ports: Ports, request: &Header, context: &mut Context<'_>) {
        let stream = self.host.as_ref().filter(|_| !self.table.is_full());
        let stream = stream.and_then(|host| match host.connect(ports.host) {
            Ok(stream) => Some(stream),
            Err(error) => {
                log::debug!(
                    "nobody is reached at the host's port {}: {error}",
                    ports.host
                );
                None
            }
        });
        let connection = stream.map(|stream| Connection::from_guest(stream, ports, request));
        if !connection.is_some_and(|connection| self.add(connection, context)) {
            self.reset(request);
        }
    }

    /// Takes the host's programs that have connected; those that are too many find their stream
    /// closed.
    fn accept(&mut self, context: &mut Context<'_>) {
        while let Some(host) = &self.host {
            match host.accept() {
                Ok(Some(stream)) => drop(self.add(Connection::from_host(stream), context)),
                Ok(None) => return self.refused = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.refused, true) {
                        log::warn!("{host}: no connection is accepted, programs wait: {error}");
                    }
                    // Of those that wait no event tells again.
                    if let Err(error) = self.retry.reset(PATIENCE, None) {
                        log::warn!("{host}: they wait for the next: {error}");
                    }
                    return;
                }
            }
        }
    }

    /// Adds a connection and watches its stream; false if that can not be.
    fn add(&mut self, mut connection: Connection, context: &mut Context<'_>) -> bool {
        connection.watched = connection.events();
        let (fd, events) = (connection.stream.as_raw_fd(), connection.watched);
        let Some(slot) = self.table.insert(connection) else {
            return false;
        };
        if let Err(error) = context.watch(&fd, events, slot) {
            log::warn!("a connection is refused: {error}");
            self.table.remove(slot);
            return false;
        }
        self.table.queue(slot);
        true
    }

    /// Does what has become due for a connection: its end, its turn, another watch.
    fn settle(&mut self, slot: u32, context: &mut Context<'_>) {
        let Some(connection) = self.table.get(slot) else {
            return;
        };
        if let Some(end) = connection.end {
            if end == End::Reset {
                let header = self.addressed(slot, op::RST, 0, 0);
                self.resets.extend(header);
            }
            return self.remove(slot, context);
        }
        let events = connection.events();
        if events != connection.watched {
            connection.watched = events;
            let fd = connection.stream.as_raw_fd();
            if context.rewatch(&fd, events, slot).is_err() {
                connection.finish(End::Reset);
            }
        }
        self.table.queue(slot);
    }

    fn remove(&mut self, slot: u32, context: &mut Context<'_>) {
        if let Some(connection) = self.table.remove(slot) {
            // It is closed next, which would do.
            let _ = context.unwatch(&connection.stream);
        }
    }

    /// Answers a packet for which there is no connection, unless it says just that.
    fn reset(&mut self, header: &Header) {
        if header.op != op::RST {
            self.resets.push_back(header.reset());
        }
    }

    /// The header of a connection's packet.
    fn addressed(&mut self, slot: u32, op: u16, flags: u32, len: u32) -> Option<Header> {
        let header = self.table.get(slot)?.header(op, flags, len);
        Some(Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            kind: STREAM,
            ..header
        })
    }
}

impl VsockWorker {
    /// Gives the guest what there is for it, as long as it has room.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(rx) = self.position(RX) else {
            return Ok(());
        };
        let mut served = 0;
        while served < BATCH && (!self.resets.is_empty() || self.table.has_ready()) {
            let queue = &mut context.queues[rx];
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            match self.fill(rx, context)? {
                Some(written) => {
                    context.queues[rx].push(self.chain.head(), written)?;
                    served += 1;
                }
                None => context.queues[rx].unpop(),
            }
        }
        context.queues[rx].notify()?;
        if served == BATCH {
            context.queues[rx].kick()?;
        }
        if self.held && self.resets.len() < MAX_RESETS {
            self.held = false;
            if let Some(tx) = self.position(TX) {
                context.queues[tx].kick()?;
            }
        }
        Ok(())
    }

    /// Fills the chain with one packet, if there is one after all, and returns its bytes.
    fn fill(&mut self, rx: usize, context: &mut Context<'_>) -> Result<Option<u32>, Error> {
        let header_len = Header::SIZE as u64;
        self.chain.writable.split_front(header_len, &mut self.front);
        if self.front.len() < header_len {
            return Err(Error::Driver("a receive buffer without room for a header"));
        }
        let header = match self.resets.pop_front() {
            Some(reset) => reset,
            None => match self.turn(rx, context)? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let queue = &context.queues[rx];
        let written = self.front.write(queue.memory(), &header.to_bytes());
        written.map_err(|source| queue.error(source))?;
        Ok(Some(header.len + Header::SIZE as u32))
    }

    /// The header of the next connection's packet, whose bytes are in the chain already.
    fn turn(&mut self, rx: usize, context: &mut Context<'_>) -> Result<Option<Header>, Error> {
        while let Some(slot) = self.table.pop_ready() {
            let next = self
                .table
                .get(slot)
                .and_then(|connection| connection.next());
            let header = match next {
                Some(Next::Control(op, flags)) => self.addressed(slot, op, flags, 0),
                Some(Next::Bytes(room)) => match self.receive(slot, room, rx, context)? {
                    0 => None,
                    len => self.addressed(slot, op::RW, 0, len),
                },
                None => None,
            };
            if let (Some(header), Some(connection)) = (&header, self.table.get(slot)) {
                connection.told(header);
            }
            self.settle(slot, context);
            if header.is_some() {
                return Ok(header);
            }
        }
        Ok(None)
    }

    /// Reads at most `room` bytes of a connection's stream into the chain, behind the header.
    fn receive(
        &mut self,
        slot: u32,
        room: u32,
        rx: usize,
        context: &Context<'_>,
    ) -> Result<u32, Error> {
        if self.chain.writable.is_empty() {
            return Err(Error::Driver("a receive buffer without room for a byte"));
        }
        let Some(connection) = self.table.get(slot) else {
            return Ok(0);
        };
        self.chain.writable.truncate(room.into());
        let len = connection.receive(self.chain.writable.iovecs()) as u64;
        let memory = context.queues[rx].memory();
        self.chain.writable.mark_dirty(memory, len);
        // A chain has less than 4 GiB.
        Ok(len as u32)
    }

    /// Closes all connections, which the guest is to hear of at once. Resets that wait stay: they
    /// may be answers to requests, of which the event says nothing.
    fn transport_reset(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        for connection in self.table.drain() {
            let _ = context.unwatch(&connection.stream);
        }
        self.event_due = true;
        self.send_event(context)
    }

    fn send_event(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(position) = self.position(EVENT) else {
            return Ok(());
        };
        let queue = &mut context.queues[position];
        while self.event_due {
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            let event = TRANSPORT_RESET.to_le_bytes();
            let written = self.chain.writable.write(queue.memory(), &event);
            if written.map_err(|source| queue.error(source))? < event.len() {
                return Err(Error::Driver("an event buffer without room for an event"));
            }
            queue.push(self.chain.head(), event.len() as u32)?;
            self.event_due = false;
        }
        queue.notify()
    }

    /// A connection's stream is ready for something.
    fn stream_ready(&mut self, slot: u32, events: EventSet, context: &mut Context<'_>) {
        let Some(connection) = self.table.get(slot) else {
            return;
        };
        connection.ready(events);
        match connection.greet() {
            Some(Greeting::Port(port)) => self.table.ask(slot, port),
            Some(Greeting::Wrong) => connection.finish(End::Silent),
            Some(Greeting::Incomplete) | None => {}
        }
        self.settle(slot, context);
    }
}

impl Worker for VsockWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        context.watch(&*self.transport_reset, EventSet::IN, RESET)?;
        // A program that can not be accepted must not keep the worker busy: an edge comes once.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        context.watch(&self.retry, edge, RETRY)?;
        match &self.host {
            Some(host) => context.watch(host, edge, LISTENER),
            None => Ok(()),
        }
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        match self.queues.get(queue) {
            Some(&RX) => self.send(context),
            Some(&TX) => self.transmitted(context),
            Some(&EVENT) => self.send_event(context),
            _ => Ok(()),
        }
    }

    fn ready(
        &mut self,
        token: u32,
        events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        match token {
            LISTENER | RETRY => self.accept(context),
            RESET => {
                let _ = self.transport_reset.read();
                return self.transport_reset(context);
            }
            slot => self.stream_ready(slot, events, context),
        }
        self.send(context)
    }
}

impl Drop for VsockWorker {
    fn drop(&mut self) {
        *lock(&self.home) = self.host.take();
    }
}
