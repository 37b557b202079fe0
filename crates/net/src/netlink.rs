//! A blocking rtnetlink socket, and the few requests that taps and bridges need.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `nlmsg_flags` of an answer to a dump that a change interrupted (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often an interrupted dump is begun anew.
const DUMP_ATTEMPTS: usize = 8;

/// A network interface as rtnetlink describes it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Option<InfoKind>,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub flags: LinkFlags,
    pub state: State,
    pub master: Option<u32>,
}

impl Link {
    pub(crate) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    pub(crate) fn is_tap(&self) -> bool {
        self.kind == Some(InfoKind::Tun)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Whether frames can pass: the interface is up and its cable, so to speak, plugged in.
    pub(crate) fn has_carrier(&self) -> bool {
        self.is_up() && self.flags.contains(LinkFlags::LowerUp) && self.state != State::Down
    }

    fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            mac: Vec::new(),
            mtu: 0,
            flags: message.header.flags,
            state: State::Unknown,
            master: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.state = state,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// A connection to the kernel's routing tables, in the network namespace of the thread that made
/// it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request that changes something, and waits until it is done.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers()?;
        Ok(())
    }

    /// Sends a change that was serialized before.
    pub(crate) fn replay(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut message: NetlinkMessage<RouteNetlinkMessage> =
            NetlinkMessage::deserialize(bytes).map_err(malformed)?;
        let flags = message.header.flags;
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        message.payload = NetlinkPayload::Noop;
        self.change(inner, flags)
    }

    /// Asks for all objects of a kind.
    fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (answers, interrupted) = self.answers()?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the kernel's tables do not hold still"))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = serialize(message, flags, self.sequence);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The answers up to the one that ends them, and whether a change came in between.
    fn answers(&mut self) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let buffer = NetlinkBuffer::new_checked(&rest).map_err(malformed)?;
                let len = buffer.length() as usize;
                let parsed: NetlinkMessage<RouteNetlinkMessage> =
                    NetlinkMessage::deserialize(rest).map_err(malformed)?;
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                if parsed.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= parsed.header.flags & NLM_F_DUMP_INTR != 0;
                match parsed.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                        return Ok((answers, interrupted));
                    }
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let all = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(link)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The link of that name; `None` when there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<AddressMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let of_link = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
                Some(address)
            }
            _ => None,
        });
        Ok(of_link.collect())
    }

    pub(crate) fn routes(&mut self) -> io::Result<Vec<RouteMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        let routes = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// What the neighbour table says of `address` on a link.
    pub(crate) fn neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
    ) -> io::Result<Option<(NeighbourState, NeighbourMessage)>> {
        let all = self.dump(&RouteNetlinkMessage::GetNeighbour(
            NeighbourMessage::default(),
        ))?;
        let wanted = NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        });
        let found = all.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour)
                if neighbour.header.ifindex == index && neighbour.attributes.contains(&wanted) =>
            {
                Some((neighbour.header.state, neighbour))
            }
            _ => None,
        });
        Ok(found)
    }

    /// Whether a bridge has a machine with that MAC address behind one of its ports.
    pub(crate) fn bridge_knows(&mut self, bridge: u32, mac: [u8; 6]) -> io::Result<bool> {
        let mut ask = NeighbourMessage::default();
        ask.header.family = AddressFamily::Bridge;
        let all = self.dump(&RouteNetlinkMessage::GetNeighbour(ask))?;
        Ok(all.into_iter().any(|message| match message {
            RouteNetlinkMessage::NewNeighbour(entry) => {
                let of = |attribute| entry.attributes.contains(&attribute);
                of(NeighbourAttribute::Controller(bridge))
                    && of(NeighbourAttribute::LinkLayerAddress(mac.to_vec()))
            }
            _ => false,
        }))
    }

    /// Makes a bridge that forwards at once (no spanning tree, no delay), and sets it up.
    pub(crate) fn add_bridge(&mut self, name: &str, like: Option<&Link>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        if let Some(uplink) = like {
            message
                .attributes
                .push(LinkAttribute::Address(uplink.mac.clone()));
            message.attributes.push(LinkAttribute::Mtu(uplink.mtu));
        }
        let quick = vec![
            InfoBridge::ForwardDelay(0),
            InfoBridge::StpState(BridgeStpState::Disabled),
        ];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(quick)),
        ]));
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Makes the link a port of `master`, or of nothing.
    pub(crate) fn set_master(&mut self, index: u32, master: Option<u32>) -> io::Result<()> {
        let attribute = LinkAttribute::Controller(master.unwrap_or(0));
        self.set_link(index, LinkFlags::empty(), attribute)
    }

    /// Sets the link up, with an MTU in bytes.
    pub(crate) fn set_up(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.set_link(index, LinkFlags::Up, LinkAttribute::Mtu(mtu))
    }

    fn set_link(
        &mut self,
        index: u32,
        flags: LinkFlags,
        attribute: LinkAttribute,
    ) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = flags;
        message.attributes.push(attribute);
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }
}

/// A change as bytes that [`Netlink::replay`] takes.
pub(crate) fn serialize(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn malformed(error: netlink_packet_core::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
