//! Interfaces, as far as taps and bridges look at them.

use super::attributes::Attributes;
use super::object::LinkObject;

/// `IF_OPER_DOWN` (RFC 2863).
const OPER_DOWN: u8 = 2;
/// Of a bridge's own attributes (linux/if_link.h; libc has no names for these).
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP_STATE: u16 = 5;

/// A network interface as rtnetlink describes it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub master: Option<u32>,
    kind: Option<String>,
    flags: u32,
    oper_state: u8,
}

impl Link {
    pub(crate) fn new(object: &LinkObject) -> Self {
        let of = &object.attributes;
        let info = of.nested(libc::IFLA_LINKINFO);
        let oper_state = of.get(libc::IFLA_OPERSTATE);
        Self {
            index: object.index,
            name: of.string(libc::IFLA_IFNAME).unwrap_or_default(),
            mac: of.get(libc::IFLA_ADDRESS).unwrap_or_default().to_vec(),
            mtu: of.u32(libc::IFLA_MTU).unwrap_or(0),
            master: of.u32(libc::IFLA_MASTER),
            kind: info.and_then(|info| info.string(libc::IFLA_INFO_KIND)),
            flags: object.flags,
            oper_state: oper_state
                .and_then(|state| state.first().copied())
                .unwrap_or(0),
        }
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    pub(crate) fn is_tap(&self) -> bool {
        self.kind.as_deref() == Some("tun")
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.has(libc::IFF_LOOPBACK)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.has(libc::IFF_UP)
    }

    /// Whether frames can pass: the interface is up and its cable, so to speak, plugged in.
    pub(crate) fn has_carrier(&self) -> bool {
        self.is_up() && self.has(libc::IFF_LOWER_UP) && self.oper_state != OPER_DOWN
    }

    fn has(&self, flag: libc::c_int) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }
}

/// A bridge to be made, that forwards at once (no spanning tree, no delay) and is up; with the MAC
/// address and MTU of `like`.
pub(super) fn bridge(name: &str, like: Option<&Link>) -> LinkObject {
    let mut object = up(0);
    object.attributes.push(libc::IFLA_IFNAME, name.as_bytes());
    if let Some(uplink) = like {
        object.attributes.push(libc::IFLA_ADDRESS, &uplink.mac);
        object.attributes.push_u32(libc::IFLA_MTU, uplink.mtu);
    }
    let mut quick = Attributes::default();
    quick.push_u32(BRIDGE_FORWARD_DELAY, 0);
    quick.push_u32(BRIDGE_STP_STATE, 0);
    let mut info = Attributes::default();
    info.push(libc::IFLA_INFO_KIND, b"bridge");
    info.push(libc::IFLA_INFO_DATA, quick.bytes());
    object.attributes.push(libc::IFLA_LINKINFO, info.bytes());
    object
}

/// A request that sets an interface up.
pub(super) fn up(index: u32) -> LinkObject {
    LinkObject {
        index,
        flags: libc::IFF_UP.cast_unsigned(),
        change: libc::IFF_UP.cast_unsigned(),
        attributes: Attributes::default(),
    }
}
