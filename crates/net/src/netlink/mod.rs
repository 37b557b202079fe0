//! A blocking rtnetlink socket, and the few requests that taps and bridges need.
//!
//! Messages are kept as they are on the wire, every length checked when they come; what is moved
//! from one interface to another goes through unread.

mod attributes;
mod link;
mod message;
mod object;

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::sys;
pub(crate) use attributes::Attributes;
pub(crate) use link::Link;
pub(crate) use message::Message;
use message::acknowledged;
pub(crate) use object::{Address, LinkObject, Neighbour, Object, Route};

/// Flags of requests and answers (linux/netlink.h).
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// Messages that end an answer.
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;

/// How often a dump is begun anew that a change interrupted.
const DUMP_ATTEMPTS: usize = 8;
/// Bytes of the largest datagram: the kernel sends at most 32 KiB unless one object is larger.
const DATAGRAM: usize = 1 << 16;

/// A connection to the kernel's routing tables, in the network namespace of the thread that made
/// it.
pub(crate) struct Netlink {
    socket: File,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: sys::route_socket()?.into(),
            sequence: 0,
        })
    }

    /// Sends a change that [`create_message`] made before, and waits until it is done.
    pub(crate) fn replay(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (message, _) = Message::split(bytes)?;
        self.change(message.kind, message.flags, message.payload)
    }

    /// Removes an entry of a table.
    pub(crate) fn delete<T: Object>(&mut self, object: &T) -> io::Result<()> {
        self.change(T::DELETE, 0, &object.encode())
    }

    /// Sends a request that changes something, and waits until it is done.
    fn change(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.send(kind, REQUEST | ACK | flags, payload)?;
        self.answers::<LinkObject>().map(drop)
    }

    /// Asks for all entries of a table that `ask` fits.
    fn dump<T: Object>(&mut self, ask: &T) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(T::GET, REQUEST | DUMP, &ask.encode())?;
            let (answers, interrupted) = self.answers()?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel's tables do not hold still"))
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = Message {
            kind,
            flags,
            sequence: self.sequence,
            payload,
        };
        self.socket.write_all(&message.encode())
    }

    /// The answers up to the one that ends them, and whether a change came in between.
    fn answers<T: Object>(&mut self) -> io::Result<(Vec<T>, bool)> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let len = match sys::receive_datagram(self.socket.as_fd(), &mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            let mut rest = buffer.get(..len).ok_or(ErrorKind::InvalidData)?;
            while !rest.is_empty() {
                let message;
                (message, rest) = Message::split(rest)?;
                // What is left of an earlier answer that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                match message.kind {
                    ERROR => {
                        acknowledged(message.payload)?;
                        return Ok((answers, interrupted));
                    }
                    DONE => return Ok((answers, interrupted)),
                    kind if kind == T::NEW => answers.push(T::decode(message.payload)?),
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let all = self.dump(&LinkObject::default())?;
        Ok(all.iter().map(Link::new).collect())
    }

    /// The link of that name; `None` when there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let mut all = self.dump(&Address::default())?;
        all.retain(|address| address.index == index);
        Ok(all)
    }

    /// The routes of all tables.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        self.dump(&Route::default())
    }

    /// What the neighbour table says of `address` on a link.
    pub(crate) fn neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
    ) -> io::Result<Option<Neighbour>> {
        let all = self.dump(&Neighbour::default())?;
        let wanted = |entry: &Neighbour| {
            entry.index == index && entry.attributes.ip(libc::NDA_DST) == Some(address)
        };
        Ok(all.into_iter().find(wanted))
    }

    /// Whether a bridge has a machine with that MAC address behind one of its ports.
    pub(crate) fn bridge_knows(&mut self, bridge: u32, mac: [u8; 6]) -> io::Result<bool> {
        let ask = Neighbour {
            family: libc::AF_BRIDGE as u8,
            ..Neighbour::default()
        };
        let all = self.dump(&ask)?;
        Ok(all.iter().any(|entry| {
            entry.attributes.u32(libc::NDA_MASTER) == Some(bridge)
                && entry.attributes.get(libc::NDA_LLADDR) == Some(&mac)
        }))
    }

    /// Makes a bridge that forwards at once, like `like` in its MAC address and MTU, and sets it up.
    pub(crate) fn add_bridge(&mut self, name: &str, like: Option<&Link>) -> io::Result<()> {
        let bridge = link::bridge(name, like);
        self.change(LinkObject::NEW, CREATE | EXCLUSIVE, &bridge.encode())
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.delete(&LinkObject {
            index,
            ..LinkObject::default()
        })
    }

    /// Makes the link a port of `master`, or of nothing.
    pub(crate) fn set_master(&mut self, index: u32, master: Option<u32>) -> io::Result<()> {
        let mut link = LinkObject {
            index,
            ..LinkObject::default()
        };
        link.attributes
            .push_u32(libc::IFLA_MASTER, master.unwrap_or(0));
        self.change(libc::RTM_SETLINK, 0, &link.encode())
    }

    /// Sets the link up, with an MTU in bytes.
    pub(crate) fn set_up(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut link = link::up(index);
        link.attributes.push_u32(libc::IFLA_MTU, mtu);
        self.change(libc::RTM_SETLINK, 0, &link.encode())
    }
}

/// A message that makes `object`, or makes it as it is here; for [`Netlink::replay`].
pub(crate) fn create_message<T: Object>(object: &T) -> Vec<u8> {
    let message = Message {
        kind: T::NEW,
        flags: CREATE | REPLACE,
        sequence: 0,
        payload: &object.encode(),
    };
    message.encode()
}
