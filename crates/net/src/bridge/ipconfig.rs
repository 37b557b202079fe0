//! The addresses and routes of one interface, and how another gets them.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::netlink::{Address, Attributes, Link, Netlink, Route, create_message};

/// Ticks per second of the times in `rta_cacheinfo` (`USER_HZ`).
const USER_HZ: u32 = 100;
/// Of an address (linux/if_addr.h): the metric of its own route, and who set it.
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
/// Of a route (linux/rtnetlink.h; libc has no names for these): its shared next hop, the flag of a
/// gateway that no other route leads to, and the protocols that will set their routes again.
const NEXT_HOP: u16 = 30;
const ONLINK: u32 = 4;
const RENEWED: [u8; 3] = [libc::RTPROT_REDIRECT, PROTOCOL_RA, PROTOCOL_DHCP];
const PROTOCOL_RA: u8 = 9;
const PROTOCOL_DHCP: u8 = 16;

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
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
}

/// A route that can not be moved to another interface, as a person writes it.
pub(crate) struct Immovable(pub String);

impl IpConfig {
    pub(crate) fn read(netlink: &mut Netlink, link: &Link) -> io::Result<Self> {
        let mut addresses = netlink.addresses(link.index)?;
        addresses.retain(|address| !address.is_v6_link_local());
        let mut routes = netlink.routes()?;
        routes.retain(|route| route.uses(link.index) && is_set_by_somebody(route));
        // A gateway can be set only once it is reachable itself: narrow scopes first.
        routes.sort_by_key(|route| (Reverse(route.scope), route.gateway().is_some()));
        Ok(Self { addresses, routes })
    }

    /// The first route that leads over several interfaces, or through a shared next hop.
    pub(crate) fn immovable(&self) -> Option<Immovable> {
        let is_shared = |route: &&Route| {
            let has = |kind| route.attributes.get(kind).is_some();
            has(libc::RTA_MULTIPATH) || has(NEXT_HOP)
        };
        let route = self.routes.iter().find(is_shared)?;
        Some(Immovable(describe_route(route)))
    }

    /// The changes that configure `link` so.
    pub(crate) fn changes_for(&self, link: &Link) -> Vec<Change> {
        let addresses = self.addresses.iter().map(|address| Change {
            what: describe_address(address),
            message: create_message(&address_for(address, link)),
        });
        let routes = self.routes.iter().map(|route| Change {
            what: format!("route {}", describe_route(route)),
            message: create_message(&route_for(route, link.index)),
        });
        addresses.chain(routes).collect()
    }

    /// The next hops of the default routes, or of all routes where there is no default.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        let of = |default_only: bool| {
            let mut found = Vec::new();
            for route in &self.routes {
                let wanted = !default_only || route.destination_len == 0;
                if let Some(gateway) = route.gateway().filter(|_| wanted)
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
            let bare = Address {
                attributes: address
                    .attributes
                    .only(&[libc::IFA_ADDRESS, libc::IFA_LOCAL]),
                ..address.clone()
            };
            match netlink.delete(&bare) {
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
            let bare = Route {
                flags: 0,
                attributes: route.attributes.only(&[
                    libc::RTA_DST,
                    libc::RTA_GATEWAY,
                    libc::RTA_OIF,
                    libc::RTA_PRIORITY,
                    libc::RTA_TABLE,
                ]),
                ..route.clone()
            };
            match netlink.delete(&bare) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Whether the route is more than what the kernel derives from an address.
fn is_set_by_somebody(route: &Route) -> bool {
    route.protocol != libc::RTPROT_KERNEL
        && route.table != libc::RT_TABLE_LOCAL
        && route.kind == libc::RTN_UNICAST
        && route.flags & libc::RTM_F_CLONED == 0
}

fn address_for(address: &Address, link: &Link) -> Address {
    let mut attributes = address.attributes.only(&[
        libc::IFA_ADDRESS,
        libc::IFA_LOCAL,
        libc::IFA_BROADCAST,
        libc::IFA_CACHEINFO,
        IFA_RT_PRIORITY,
        IFA_PROTO,
    ]);
    // A label has to begin with its interface's name.
    if let Some(label) = address.attributes.get(libc::IFA_LABEL)
        && label.starts_with(link.name.as_bytes())
    {
        attributes.push(libc::IFA_LABEL, label);
    }
    let old = address.attributes.u32(libc::IFA_FLAGS).unwrap_or(0);
    let mut flags = old & libc::IFA_F_NOPREFIXROUTE;
    if address.is_v6() {
        // It was unique on this network a moment ago; and tentative, it could not be used for one.
        flags |= libc::IFA_F_NODAD;
    }
    attributes.push_u32(libc::IFA_FLAGS, flags);
    Address {
        index: link.index,
        flags: 0,
        attributes,
        ..address.clone()
    }
}

fn route_for(route: &Route, index: u32) -> Route {
    let mut attributes = route.attributes.only(&[
        libc::RTA_DST,
        libc::RTA_SRC,
        libc::RTA_GATEWAY,
        libc::RTA_VIA,
        libc::RTA_PREFSRC,
        libc::RTA_PRIORITY,
        libc::RTA_METRICS,
        libc::RTA_TABLE,
        libc::RTA_ENCAP,
        libc::RTA_ENCAP_TYPE,
    ]);
    attributes.push_u32(libc::RTA_OIF, index);
    if let Some(ticks) = expires(&route.attributes) {
        attributes.push_u32(libc::RTA_EXPIRES, ticks.div_ceil(USER_HZ));
    }
    // The kernel says it of IPv4 routes too, and refuses to hear it.
    if route.is_v6()
        && let Some(preference) = route.attributes.get(libc::RTA_PREF)
    {
        attributes.push(libc::RTA_PREF, preference);
    }
    Route {
        flags: route.flags & ONLINK,
        attributes,
        ..route.clone()
    }
}

/// Ticks until a route ends; `None` when it stays.
fn expires(attributes: &Attributes) -> Option<u32> {
    // struct rta_cacheinfo: two numbers before it. A route that has ended has a negative one.
    let info = attributes.get(libc::RTA_CACHEINFO)?;
    let (ticks, _) = info.get(8..)?.split_first_chunk()?;
    u32::try_from(i32::from_ne_bytes(*ticks))
        .ok()
        .filter(|ticks| *ticks > 0)
}

/// The address with its prefix length, as 192.0.2.1/24.
pub(crate) fn describe_address(address: &Address) -> String {
    match address.ip() {
        Some(ip) => format!("{ip}/{}", address.prefix_len),
        None => "an address".to_owned(),
    }
}

/// The parts of a route that configuration files name: destination, gateway, metric.
pub(crate) fn route_parts(route: &Route) -> (Option<String>, Option<IpAddr>, Option<u32>) {
    let prefix = route.destination_len;
    let destination = route.destination().map(|ip| format!("{ip}/{prefix}"));
    (destination, route.gateway(), route.metric())
}

/// Whether a person or a configuration file set the route, not a protocol that will set it again.
pub(crate) fn is_static(route: &Route) -> bool {
    !RENEWED.contains(&route.protocol)
}

/// The route as `ip route` writes it, in short.
fn describe_route(route: &Route) -> String {
    let (destination, gateway, metric) = route_parts(route);
    let mut text = destination.unwrap_or_else(|| "default".to_owned());
    if let Some(gateway) = gateway {
        let _ = write!(text, " via {gateway}");
    }
    if let Some(metric) = metric {
        let _ = write!(text, " metric {metric}");
    }
    if route.scope == libc::RT_SCOPE_LINK {
        text.push_str(" scope link");
    }
    text
}
