//! What rtnetlink has tables of: a header of fixed size, then attributes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use super::attributes::{self, Attributes};

/// `AF_INET6`, as headers have it.
const INET6: u8 = libc::AF_INET6 as u8;

/// One entry of a table.
pub(crate) trait Object: Sized {
    /// The messages that tell of one, that remove one, and that ask for all.
    const NEW: u16;
    /// See [`NEW`](Self::NEW).
    const DELETE: u16;
    /// See [`NEW`](Self::NEW).
    const GET: u16;

    /// Takes one from a message's payload.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is too short, or as [`Attributes::parse`].
    fn decode(payload: &[u8]) -> io::Result<Self>;

    /// The payload of a message about it.
    fn encode(&self) -> Vec<u8>;
}

/// The fixed header and the attributes behind it.
fn split<const LEN: usize>(payload: &[u8]) -> io::Result<([u8; LEN], Attributes)> {
    let (header, rest) = payload
        .split_first_chunk()
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((*header, Attributes::parse(rest)?))
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkObject {
    pub index: u32,
    pub flags: u32,
    /// Which flags a request changes.
    pub change: u32,
    pub attributes: Attributes,
}

impl Object for LinkObject {
    const NEW: u16 = libc::RTM_NEWLINK;
    const DELETE: u16 = libc::RTM_DELLINK;
    const GET: u16 = libc::RTM_GETLINK;

    fn decode(payload: &[u8]) -> io::Result<Self> {
        // struct ifinfomsg: family, padding, type of hardware, index, flags, change.
        let ([_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, c0, c1, c2, c3], attributes) =
            split(payload)?;
        Ok(Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            change: u32::from_ne_bytes([c0, c1, c2, c3]),
            attributes,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(self.index.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(self.change.to_ne_bytes());
        bytes.extend(self.attributes.bytes());
        bytes
    }
}

/// An address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub family: u8,
    pub prefix_len: u8,
    pub flags: u8,
    pub scope: u8,
    pub index: u32,
    pub attributes: Attributes,
}

impl Object for Address {
    const NEW: u16 = libc::RTM_NEWADDR;
    const DELETE: u16 = libc::RTM_DELADDR;
    const GET: u16 = libc::RTM_GETADDR;

    fn decode(payload: &[u8]) -> io::Result<Self> {
        // struct ifaddrmsg.
        let ([family, prefix_len, flags, scope, i0, i1, i2, i3], attributes) = split(payload)?;
        Ok(Self {
            family,
            prefix_len,
            flags,
            scope,
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            attributes,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.family, self.prefix_len, self.flags, self.scope];
        bytes.extend(self.index.to_ne_bytes());
        bytes.extend(self.attributes.bytes());
        bytes
    }
}

impl Address {
    pub(crate) fn is_v6(&self) -> bool {
        self.family == INET6
    }

    /// The interface's own address: where it has a peer's too, that is another.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        let own = self.attributes.ip(libc::IFA_LOCAL);
        own.or_else(|| self.attributes.ip(libc::IFA_ADDRESS))
    }

    /// Whether the kernel gave it by itself, for this interface alone.
    pub(crate) fn is_v6_link_local(&self) -> bool {
        self.is_v6() && self.scope == libc::RT_SCOPE_LINK
    }

    /// Whether it has no end of its own: it was set by hand, not leased.
    pub(crate) fn is_permanent(&self) -> bool {
        u32::from(self.flags) & libc::IFA_F_PERMANENT != 0
    }
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub family: u8,
    pub destination_len: u8,
    pub source_len: u8,
    pub tos: u8,
    pub table: u8,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
    pub flags: u32,
    pub attributes: Attributes,
}

impl Object for Route {
    const NEW: u16 = libc::RTM_NEWROUTE;
    const DELETE: u16 = libc::RTM_DELROUTE;
    const GET: u16 = libc::RTM_GETROUTE;

    fn decode(payload: &[u8]) -> io::Result<Self> {
        // struct rtmsg.
        let (header, attributes) = split::<12>(payload)?;
        let [family, destination_len, source_len, tos, rest @ ..] = header;
        let [table, protocol, scope, kind, f0, f1, f2, f3] = rest;
        Ok(Self {
            family,
            destination_len,
            source_len,
            tos,
            table,
            protocol,
            scope,
            kind,
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            attributes,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![
            self.family,
            self.destination_len,
            self.source_len,
            self.tos,
            self.table,
            self.protocol,
            self.scope,
            self.kind,
        ];
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(self.attributes.bytes());
        bytes
    }
}

impl Route {
    pub(crate) fn is_v6(&self) -> bool {
        self.family == INET6
    }

    pub(crate) fn destination(&self) -> Option<IpAddr> {
        self.attributes.ip(libc::RTA_DST)
    }

    pub(crate) fn metric(&self) -> Option<u32> {
        self.attributes.u32(libc::RTA_PRIORITY)
    }

    /// The next hop, of the route's own family or of the other.
    pub(crate) fn gateway(&self) -> Option<IpAddr> {
        let via = || {
            // struct rtvia: a family of 16 bits, and an address.
            let (_, address) = self
                .attributes
                .get(libc::RTA_VIA)?
                .split_first_chunk::<2>()?;
            attributes::ip(address)
        };
        self.attributes.ip(libc::RTA_GATEWAY).or_else(via)
    }

    /// Whether it leads through an interface: by itself, or by one of its hops.
    pub(crate) fn uses(&self, index: u32) -> bool {
        self.attributes.u32(libc::RTA_OIF) == Some(index)
            || self.hops().any(|interface| interface == index)
    }

    /// The interfaces of its hops, where it has several.
    fn hops(&self) -> impl Iterator<Item = u32> {
        let mut rest = self.attributes.get(libc::RTA_MULTIPATH).unwrap_or_default();
        std::iter::from_fn(move || {
            // struct rtnexthop: length with attributes, flags, hops, interface.
            let ([l0, l1, _, _, i0, i1, i2, i3], _) = rest.split_first_chunk::<8>()?;
            let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
            let index = u32::from_ne_bytes([*i0, *i1, *i2, *i3]);
            // One that claims to be shorter than its header is the last.
            rest = rest
                .get(len.max(8).next_multiple_of(4)..)
                .unwrap_or_default();
            Some(index)
        })
    }
}

/// What is known of a machine on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub family: u8,
    pub index: u32,
    pub state: u16,
    pub flags: u8,
    pub kind: u8,
    pub attributes: Attributes,
}

impl Object for Neighbour {
    const NEW: u16 = libc::RTM_NEWNEIGH;
    const DELETE: u16 = libc::RTM_DELNEIGH;
    const GET: u16 = libc::RTM_GETNEIGH;

    fn decode(payload: &[u8]) -> io::Result<Self> {
        // struct ndmsg: three bytes of padding behind the family.
        let ([family, _, _, _, i0, i1, i2, i3, s0, s1, flags, kind], attributes) = split(payload)?;
        Ok(Self {
            family,
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            state: u16::from_ne_bytes([s0, s1]),
            flags,
            kind,
            attributes,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.family, 0, 0, 0];
        bytes.extend(self.index.to_ne_bytes());
        bytes.extend(self.state.to_ne_bytes());
        bytes.extend([self.flags, self.kind]);
        bytes.extend(self.attributes.bytes());
        bytes
    }
}

impl Neighbour {
    /// Whether somebody told it to the kernel for good.
    pub(crate) fn is_fixed(&self) -> bool {
        self.state & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0
    }

    /// Whether it answered a moment ago, or need not.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_fixed() || self.state & libc::NUD_REACHABLE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_of_a_route_are_found_and_end() {
        let mut route = Route::default();
        let mut hops = Vec::new();
        for index in [3_u32, 7] {
            hops.extend([8, 0, 0, 0]);
            hops.extend(index.to_ne_bytes());
        }
        route.attributes.push(libc::RTA_MULTIPATH, &hops);
        assert!(route.uses(3) && route.uses(7) && !route.uses(5));
        // A length of 0 must not hold us.
        hops[0] = 0;
        let mut route = Route::default();
        route.attributes.push(libc::RTA_MULTIPATH, &hops);
        assert!(route.uses(7));
    }

    #[test]
    fn objects_come_back_as_they_were() {
        let payload: Vec<u8> = (0..16).collect();
        fn same<T: Object>(payload: &[u8]) {
            let encoded = T::decode(payload).unwrap().encode();
            assert_eq!(T::decode(&encoded).unwrap().encode(), encoded);
        }
        same::<Address>(&payload[..8]);
        same::<Route>(&payload[..12]);
        same::<Neighbour>(&payload[..12]);
        same::<LinkObject>(&payload);
        assert!(LinkObject::decode(&payload[..15]).is_err());
        assert!(Route::decode(&payload[..11]).is_err());
        let v6 = [libc::AF_INET6 as u8, 64, 0x80, 253, 1, 0, 0, 0];
        let address = Address::decode(&v6).unwrap();
        assert!(address.is_v6_link_local() && address.is_permanent() && address.ip().is_none());
    }
}
