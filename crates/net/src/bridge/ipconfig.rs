//! The addresses and routes of one interface, and how another gets them.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use crate::netlink::{self, Link, Netlink};

/// Ticks per second of the times in `rta_cacheinfo` (`USER_HZ`).
const USER_HZ: u32 = 100;
/// `RT_TABLE_LOCAL`: the kernel fills it by itself.
const TABLE_LOCAL: u8 = 255;

/// A change that gives an interface one address or route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// As a person writes it.
    pub what: String,
    /// The netlink message.
    pub message: Vec<u8>,
}

/// What one interface is configured with, link-local addresses of IPv6 left out: each interface
/// has its own.
#[derive(Debug)]
pub(crate) struct IpConfig {
    pub addresses: Vec<AddressMessage>,
    pub routes: Vec<RouteMessage>,
}

/// A route that can not be moved to another interface, as a person writes it.
pub(crate) struct Immovable(pub String);

impl IpConfig {
    pub(crate) fn read(netlink: &mut Netlink, link: &Link) -> io::Result<Self> {
        let mut addresses = netlink.addresses(link.index)?;
        addresses.retain(|address| {
            !(address.header.family == AddressFamily::Inet6
                && address.header.scope == AddressScope::Link)
        });
        let mut routes = netlink.routes()?;
        routes.retain(|route| uses(route, link.index) && is_set_by_somebody(route));
        // A gateway can be set only once it is reachable itself: narrow scopes first.
        routes.sort_by_key(|route| {
            (
                std::cmp::Reverse(u8::from(route.header.scope)),
                gateway(route).is_some(),
            )
        });
        Ok(Self { addresses, routes })
    }

    /// The first route that leads over several interfaces, or through a shared next hop.
    pub(crate) fn immovable(&self) -> Option<Immovable> {
        let shared = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_)
            )
        };
        let route = self
            .routes
            .iter()
            .find(|route| route.attributes.iter().any(shared))?;
        Some(Immovable(describe_route(route)))
    }

    /// The changes that configure `link` so.
    pub(crate) fn changes_for(&self, link: &Link) -> Vec<Change> {
        let addresses = self.addresses.iter().map(|address| Change {
            what: describe_address(address),
            message: netlink::serialize(
                RouteNetlinkMessage::NewAddress(address_for(address, link)),
                NLM_F_CREATE | NLM_F_REPLACE,
                0,
            ),
        });
        let routes = self.routes.iter().map(|route| Change {
            what: format!("route {}", describe_route(route)),
            message: netlink::serialize(
                RouteNetlinkMessage::NewRoute(route_for(route, link.index)),
                NLM_F_CREATE | NLM_F_REPLACE,
                0,
            ),
        });
        addresses.chain(routes).collect()
    }

    /// The next hops of the default routes, or of all routes where there is no default.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        let of = |default_only: bool| {
            let mut found = Vec::new();
            for route in &self.routes {
                let wanted = !default_only || route.header.destination_prefix_length == 0;
                if let Some(gateway) = gateway(route).filter(|_| wanted)
                    && !found.contains(&gateway)
                {
                    found.push(gateway);
                }
            }
            found
        };
        let default = of(true);
        if default.is_empty() {
            of(false)
        } else {
            default
        }
    }

    /// Takes all addresses away from their interface; the kernel removes what leads through them.
    pub(crate) fn remove_addresses(&self, netlink: &mut Netlink) -> io::Result<()> {
        for address in &self.addresses {
            let mut bare = AddressMessage::default();
            bare.header = address.header.clone();
            bare.attributes = address.attributes.clone();
            bare.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    AddressAttribute::Address(_) | AddressAttribute::Local(_)
                )
            });
            match netlink.change(RouteNetlinkMessage::DelAddress(bare), 0) {
                // A secondary address goes with its primary one.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes away the routes that did not go with the addresses.
    pub(crate) fn remove_routes(&self, netlink: &mut Netlink) -> io::Result<()> {
        for route in &self.routes {
            let mut bare = RouteMessage::default();
            bare.header = route.header.clone();
            bare.header.flags = RouteFlags::empty();
            bare.attributes = route.attributes.clone();
            bare.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    RouteAttribute::Destination(_)
                        | RouteAttribute::Gateway(_)
                        | RouteAttribute::Oif(_)
                        | RouteAttribute::Priority(_)
                        | RouteAttribute::Table(_)
                )
            });
            match netlink.change(RouteNetlinkMessage::DelRoute(bare), 0) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn uses(route: &RouteMessage, index: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
        _ => false,
    })
}

/// Whether the route is more than what the kernel derives from an address.
fn is_set_by_somebody(route: &RouteMessage) -> bool {
    route.header.protocol != RouteProtocol::Kernel
        && route.header.table != TABLE_LOCAL
        && route.header.kind == RouteType::Unicast
        && !route.header.flags.contains(RouteFlags::Cloned)
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn address_for(address: &AddressMessage, link: &Link) -> AddressMessage {
    let mut new = AddressMessage::default();
    new.header = address.header.clone();
    new.header.index = link.index;
    new.header.flags = AddressHeaderFlags::empty();
    let mut flags = AddressFlags::empty();
    if address.header.family == AddressFamily::Inet6 {
        // It was unique on this network a moment ago; and tentative, it could not be used for one.
        flags |= AddressFlags::Nodad;
    }
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Flags(old) => flags |= *old & AddressFlags::Noprefixroute,
            // A label has to begin with its interface's name.
            AddressAttribute::Label(label) if !label.starts_with(&link.name) => {}
            AddressAttribute::Address(_)
            | AddressAttribute::Local(_)
            | AddressAttribute::Label(_)
            | AddressAttribute::Broadcast(_)
            | AddressAttribute::CacheInfo(_)
            | AddressAttribute::RoutePriority(_)
            | AddressAttribute::Protocol(_) => new.attributes.push(attribute.clone()),
            _ => {}
        }
    }
    new.attributes.push(AddressAttribute::Flags(flags));
    new
}

fn route_for(route: &RouteMessage, index: u32) -> RouteMessage {
    let mut new = RouteMessage::default();
    new.header = route.header.clone();
    new.header.flags = route.header.flags & RouteFlags::Onlink;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(_) => new.attributes.push(RouteAttribute::Oif(index)),
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                let seconds = info.expires.div_ceil(USER_HZ);
                new.attributes.push(RouteAttribute::Expires(seconds));
            }
            RouteAttribute::Destination(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Metrics(_)
            | RouteAttribute::Table(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::EncapType(_) => new.attributes.push(attribute.clone()),
            // IPv6 only; the kernel says it of IPv4 routes too, and refuses to hear it.
            RouteAttribute::Preference(_)
                if route.header.address_family == AddressFamily::Inet6 =>
            {
                new.attributes.push(attribute.clone());
            }
            _ => {}
        }
    }
    new
}

/// The address with its prefix length, as 192.0.2.1/24.
pub(crate) fn describe_address(address: &AddressMessage) -> String {
    let local = address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    let given = address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
    match local.or(given) {
        Some(ip) => format!("{ip}/{}", address.header.prefix_len),
        None => "an address".to_owned(),
    }
}

/// Whether the address has no end of its own: it was set by hand, not leased.
pub(crate) fn is_permanent(address: &AddressMessage) -> bool {
    address.header.flags.contains(AddressHeaderFlags::Permanent)
}

/// The parts of a route that configuration files name: destination, gateway, metric.
pub(crate) fn route_parts(route: &RouteMessage) -> (Option<String>, Option<IpAddr>, Option<u32>) {
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip(address),
            _ => None,
        });
    let metric = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    let prefix = route.header.destination_prefix_length;
    let destination = destination.map(|address| format!("{address}/{prefix}"));
    (destination, gateway(route), metric)
}

/// Whether a person or a configuration file set the route, not a protocol that will set it again.
pub(crate) fn is_static(route: &RouteMessage) -> bool {
    !matches!(
        route.header.protocol,
        RouteProtocol::Dhcp | RouteProtocol::Ra | RouteProtocol::IcmpRedirect
    )
}

/// The route as `ip route` writes it, in short.
fn describe_route(route: &RouteMessage) -> String {
    let (destination, gateway, metric) = route_parts(route);
    let mut text = destination.unwrap_or_else(|| "default".to_owned());
    if let Some(gateway) = gateway {
        let _ = write!(text, " via {gateway}");
    }
    if let Some(metric) = metric {
        let _ = write!(text, " metric {metric}");
    }
    if route.header.scope == RouteScope::Link {
        text.push_str(" scope link");
    }
    text
}
