//! One connection: a stream of the guest's and one of the host's.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use strata_memory::GuestMemory;
use strata_virtio::{EventSet, IoVec, QueueError, Segments};

use crate::BUFFER;
use crate::packet::{Header, op, shutdown};
use crate::sys;

/// Bytes of the longest line that asks for a port: `CONNECT 4294967295`, and some spaces.
const MAX_LINE: usize = 32;

/// The ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) guest: u32,
    pub(crate) host: u32,
}

/// How far a connection has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// A program of the host's has yet to name the guest's port; this is the line so far.
    Greeting(Vec<u8>),
    /// The guest has to be asked.
    Asking,
    /// It was asked.
    Asked,
    /// The guest has asked, and has to be told that the host's side is there.
    Accepting,
    /// Bytes may go both ways.
    Open,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest has to be told.
    Reset,
    /// The guest knows, or never knew.
    Silent,
}

/// What a connection has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A packet without bytes: its operation and flags.
    Control(u16, u32),
    /// Perhaps bytes, at most so many.
    Bytes(u32),
}

/// What became of the line of a [greeting](Connection::greet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// It names this port of the guest's.
    Port(u32),
    /// There is more to come.
    Incomplete,
    /// It is none.
    Wrong,
}

/// A connection, whose stream is watched edge-triggered: what it can do is noted here until it can
/// not any more.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) ports: Option<Ports>,
    stage: Stage,
    /// Why it is over, if it is.
    pub(crate) end: Option<End>,
    /// What the stream is watched for.
    pub(crate) watched: EventSet,
    /// Whether it waits for its turn to send to the guest.
    pub(crate) queued: bool,

    /// Whether the host may have bytes for the guest.
    readable: bool,
    /// What the host no longer does (flags of SHUTDOWN), and what of it the guest was told.
    host_finished: u32,
    told: u32,
    /// Bytes sent to the guest, and what it says of its room.
    sent: u32,
    guest_room: u32,
    guest_taken: u32,
    /// Whether the guest was asked for its room, and has had none since.
    room_asked: bool,

    /// Whether the host takes no bytes now.
    blocked: bool,
    /// What the guest no longer does.
    guest_finished: u32,
    /// Bytes of the guest's that the host has yet to take.
    buffer: VecDeque<u8>,
    /// Bytes that the guest has sent, that the host has taken, and of which the guest knows that.
    received: u32,
    taken: u32,
    taken_told: u32,
    /// Whether the guest has asked for our room.
    room_wanted: bool,
}

impl Connection {
    /// A program of the host's has connected.
    pub(crate) fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, None, Stage::Greeting(Vec::new()))
    }

    /// The guest has asked for `stream`.
    pub(crate) fn from_guest(stream: UnixStream, ports: Ports, request: &Header) -> Self {
        let mut connection = Self::new(stream, Some(ports), Stage::Accepting);
        connection.credit(request);
        connection
    }

    fn new(stream: UnixStream, ports: Option<Ports>, stage: Stage) -> Self {
        Self {
            stream,
            ports,
            stage,
            end: None,
            watched: EventSet::empty(),
            queued: false,
            readable: false,
            host_finished: 0,
            told: 0,
            sent: 0,
            guest_room: 0,
            guest_taken: 0,
            room_asked: false,
            blocked: false,
            guest_finished: 0,
            buffer: VecDeque::new(),
            received: 0,
            taken: 0,
            taken_told: 0,
            room_wanted: false,
        }
    }

    /// What the stream has to be watched for. Being able to write is the rule, of which each read of
    /// the host's would tell again.
    pub(crate) fn events(&self) -> EventSet {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if self.blocked {
            events | EventSet::OUT
        } else {
            events
        }
    }

    /// The stream is ready for something.
    pub(crate) fn ready(&mut self, events: EventSet) {
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if gone {
            self.host_finished |= shutdown::RECEIVE;
            self.give_up();
        }
        // What it has sent before it went is there to be read.
        if self.host_finished & shutdown::SEND == 0 {
            self.readable = true;
        }
        if gone || events.contains(EventSet::OUT) {
            self.blocked = false;
            self.flush();
        }
    }

    /// The program is gone: one that waits for the guest's answer does not need it any more.
    fn give_up(&mut self) {
        match self.stage {
            Stage::Asking => self.finish(End::Silent),
            Stage::Asked => self.finish(End::Reset),
            Stage::Greeting(_) | Stage::Accepting | Stage::Open => {}
        }
    }

    /// Reads on in the line by which a program names a port, `CONNECT PORT`; `None` if that is done
    /// already. It is read byte by byte: what follows it belongs to the stream.
    pub(crate) fn greet(&mut self) -> Option<Greeting> {
        let Stage::Greeting(line) = &mut self.stage else {
            return None;
        };
        let mut byte = [0];
        while line.len() < MAX_LINE {
            match self.stream.read(&mut byte) {
                Ok(1) if byte != *b"\n" => line.extend(byte),
                Ok(1) => return Some(port(line).map_or(Greeting::Wrong, Greeting::Port)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Some(Greeting::Incomplete);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        Some(Greeting::Wrong)
    }

    /// The ports are known: the guest is to be asked.
    pub(crate) fn ask(&mut self, ports: Ports) {
        self.ports = Some(ports);
        self.stage = Stage::Asking;
    }

    /// Takes note of the guest's room, which every packet tells (virtio 1.2, 5.10.6.3).
    pub(crate) fn credit(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc;
        self.guest_taken = header.fwd_cnt;
        // Until there is room it was asked: it tells by itself when its program has read. To ask
        // again at once would have both sides do nothing else meanwhile.
        if self.credit_left() > 0 {
            self.room_asked = false;
        }
    }

    /// The guest has answered that it takes the connection.
    pub(crate) fn answered(&mut self) {
        if self.stage != Stage::Asked {
            return self.finish(End::Reset);
        }
        self.stage = Stage::Open;
        let port = self.ports.map_or(0, |ports| ports.host);
        // Nothing was written before: there is room for a line.
        if self
            .stream
            .write_all(format!("OK {port}\n").as_bytes())
            .is_err()
        {
            self.finish(End::Reset);
        }
    }

    /// The guest asks how much room there is.
    pub(crate) fn want_room(&mut self) {
        self.room_wanted = true;
    }

    /// The guest will not send, or not receive, any more. When it does neither and all that it has
    /// sent is delivered, the connection is reset, which is how the guest knows that it is over
    /// (virtio 1.2, 5.10.6.6).
    pub(crate) fn shut_down(&mut self, flags: u32) {
        self.guest_finished |= flags & shutdown::BOTH;
        if self.guest_finished & shutdown::RECEIVE != 0 {
            // A program that writes all the same hears of it.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.delivered();
    }

    /// Ends the connection; the first reason counts.
    pub(crate) fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Whether bytes and their control packets may come from the guest.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Passes `len` bytes of the guest's on to the host, or holds them until it takes them.
    pub(crate) fn deliver(
        &mut self,
        memory: &GuestMemory,
        bytes: &mut Segments,
        len: u32,
    ) -> Result<(), QueueError> {
        let room = BUFFER.saturating_sub(self.buffer.len() as u32);
        if len > room || self.guest_finished & shutdown::SEND != 0 {
            // More than it was allowed to send (virtio 1.2, 5.10.6.3.1), or after its end.
            self.finish(End::Reset);
            return Ok(());
        }
        bytes.truncate(len.into());
        self.received = self.received.wrapping_add(len);
        while self.buffer.is_empty() && !bytes.is_empty() && !self.blocked {
            let count = self.write(|stream| sys::send(stream, bytes.iovecs()), bytes.len());
            bytes.consume(count);
        }
        // Only what a host that does not read leaves is copied.
        let mut chunk = [0; 4096];
        loop {
            let count = bytes.read(memory, &mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            self.buffer.extend(&chunk[..count]);
        }
    }

    /// Writes to the host, and returns how many of `len` bytes are done with: all if nobody will
    /// ever take them.
    fn write(&mut self, write: impl FnOnce(&UnixStream) -> io::Result<usize>, len: u64) -> u64 {
        let count = if self.host_finished & shutdown::RECEIVE != 0 {
            len
        } else {
            match write(&self.stream) {
                Ok(count) => count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    0
                }
                Err(_) => {
                    self.host_finished |= shutdown::RECEIVE;
                    len
                }
            }
        };
        self.taken = self.taken.wrapping_add(count as u32);
        count
    }

    /// Writes what was held.
    fn flush(&mut self) {
        while !self.buffer.is_empty() && !self.blocked {
            let held = std::mem::take(&mut self.buffer);
            let (first, _) = held.as_slices();
            let count = self.write(|mut stream| stream.write(first), held.len() as u64);
            self.buffer = held;
            self.buffer.drain(..count as usize);
        }
        if self.buffer.is_empty() {
            self.buffer = VecDeque::new();
            self.delivered();
        }
    }

    /// Passes the guest's end on, once all that it has sent is with the host.
    fn delivered(&mut self) {
        if !self.buffer.is_empty() {
            return;
        }
        match self.guest_finished {
            shutdown::BOTH => self.finish(End::Reset),
            shutdown::SEND => {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            _ => {}
        }
    }

    /// What the guest should get next, if anything.
    pub(crate) fn next(&self) -> Option<Next> {
        let control = |op| Some(Next::Control(op, 0));
        match self.stage {
            Stage::Greeting(_) | Stage::Asked => None,
            Stage::Asking => control(op::REQUEST),
            Stage::Accepting => control(op::RESPONSE),
            Stage::Open if self.owes_credit() => control(op::CREDIT_UPDATE),
            Stage::Open if self.readable && self.guest_finished & shutdown::RECEIVE == 0 => {
                match self.credit_left() {
                    0 if self.room_asked => self.next_shutdown(),
                    0 => control(op::CREDIT_REQUEST),
                    room => Some(Next::Bytes(room)),
                }
            }
            Stage::Open => self.next_shutdown(),
        }
    }

    fn next_shutdown(&self) -> Option<Next> {
        (self.told != self.host_finished).then_some(Next::Control(op::SHUTDOWN, self.host_finished))
    }

    /// Bytes that the guest has room for. What it says of its room can be anything.
    fn credit_left(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_taken);
        self.guest_room.saturating_sub(in_flight)
    }

    /// Whether the guest wants to know our room, or thinks that there is only half of it.
    fn owes_credit(&self) -> bool {
        let believed = self.received.wrapping_sub(self.taken_told);
        self.room_wanted || (self.taken != self.taken_told && believed > BUFFER / 2)
    }

    /// The header of a packet to the guest.
    pub(crate) fn header(&self, op: u16, flags: u32, len: u32) -> Header {
        let ports = self.ports.unwrap_or(Ports { guest: 0, host: 0 });
        Header {
            src_port: ports.host,
            dst_port: ports.guest,
            len,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.taken,
            ..Header::default()
        }
    }

    /// A packet with this header is on its way to the guest.
    pub(crate) fn told(&mut self, header: &Header) {
        self.taken_told = header.fwd_cnt;
        self.sent = self.sent.wrapping_add(header.len);
        match header.op {
            op::REQUEST => self.stage = Stage::Asked,
            op::RESPONSE => {
                self.stage = Stage::Open;
                // It may have written before the guest could be told.
                self.readable = true;
            }
            op::CREDIT_UPDATE => self.room_wanted = false,
            op::CREDIT_REQUEST => self.room_asked = true,
            op::SHUTDOWN => self.told = header.flags,
            _ => {}
        }
    }

    /// Moves bytes of the host's into guest memory, which is marked dirty by the caller. Returns how
    /// many; 0 when there are none now.
    pub(crate) fn receive(&mut self, buffers: &[IoVec]) -> usize {
        match sys::receive(&self.stream, buffers) {
            Ok(count) if count > 0 => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) => self.host_finished |= shutdown::SEND,
            // Its other end is gone with bytes unread.
            Err(_) => self.host_finished = shutdown::BOTH,
        }
        self.readable = false;
        0
    }
}

/// The port of the line `CONNECT PORT`.
fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (command, port) = (words.next()?, words.next()?);
    let fits = command.eq_ignore_ascii_case("connect") && words.next().is_none();
    fits.then(|| port.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_port() {
        for (line, expected) in [
            ("CONNECT 1024", Some(1024)),
            ("connect  7\r", Some(7)),
            ("CONNECT 4294967295", Some(u32::MAX)),
            ("CONNECT 4294967296", None),
            ("CONNECT -1", None),
            ("CONNECT", None),
            ("CONNECT 1 2", None),
            ("GET 1", None),
            ("", None),
        ] {
            assert_eq!(port(line.as_bytes()), expected, "{line}");
        }
        assert_eq!(port(b"CONNECT \xff"), None);
    }
}
