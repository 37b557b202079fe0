//! Whether the host still reaches its network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::netlink::Netlink;

/// Between two looks at the kernel's tables.
const INTERVAL: Duration = Duration::from_millis(50);
/// Between two datagrams that make the kernel ask for the gateway again, should it have given up.
const PROBE_EVERY: u32 = 10;
/// The discard service: nobody needs to answer, since the neighbour's own answer is what counts.
const DISCARD: u16 = 9;

/// What connectivity consists of: the interface carries frames, and gateways answer ARP or
/// neighbour solicitations through it.
#[derive(Debug, Default)]
pub(crate) struct Goal {
    pub carrier: bool,
    pub gateways: Vec<IpAddr>,
}

/// Those of `gateways` that answer on the link within `timeout`, asked anew and not remembered.
pub(crate) fn answering(
    netlink: &mut Netlink,
    index: u32,
    gateways: &[IpAddr],
    timeout: Duration,
) -> io::Result<Vec<IpAddr>> {
    for &gateway in gateways {
        forget(netlink, index, gateway)?;
    }
    let missing = wait(netlink, index, &goal(gateways), timeout)?;
    let answers = |gateway: &IpAddr| {
        missing
            .as_ref()
            .is_none_or(|goal| !goal.gateways.contains(gateway))
    };
    Ok(gateways.iter().copied().filter(answers).collect())
}

fn goal(gateways: &[IpAddr]) -> Goal {
    Goal {
        carrier: false,
        gateways: gateways.to_vec(),
    }
}

/// Waits until all of `goal` is there; what is missing still after `timeout`, otherwise.
pub(crate) fn wait(
    netlink: &mut Netlink,
    index: u32,
    goal: &Goal,
    timeout: Duration,
) -> io::Result<Option<Goal>> {
    let end = Instant::now() + timeout;
    for round in 0_u32.. {
        let mut missing = Goal::default();
        if goal.carrier {
            let links = netlink.links()?;
            let up = |link: &crate::netlink::Link| link.index == index && link.has_carrier();
            missing.carrier = !links.iter().any(up);
        }
        for &gateway in &goal.gateways {
            if !is_reachable(netlink, index, gateway)? {
                missing.gateways.push(gateway);
                if round.is_multiple_of(PROBE_EVERY) {
                    provoke(index, gateway);
                }
            }
        }
        if !missing.carrier && missing.gateways.is_empty() {
            return Ok(None);
        }
        if Instant::now() >= end {
            return Ok(Some(missing));
        }
        thread::sleep(INTERVAL);
    }
    Ok(None)
}

fn is_reachable(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<bool> {
    let entry = netlink.neighbour(index, gateway)?;
    Ok(entry.is_some_and(|entry| entry.is_reachable()))
}

/// Drops what the kernel remembers of a neighbour, unless somebody told it for good.
fn forget(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<()> {
    match netlink.neighbour(index, gateway)? {
        Some(entry) if !entry.is_fixed() => match netlink.delete(&entry) {
            // It was forgotten in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        },
        _ => Ok(()),
    }
}

/// Sends a datagram, so that the kernel asks for the gateway's hardware address. That it can not
/// be sent (yet) is what the caller sees in the neighbour table.
fn provoke(index: u32, gateway: IpAddr) {
    let (own, target): (SocketAddr, SocketAddr) = match gateway {
        IpAddr::V4(gateway) => ((Ipv4Addr::UNSPECIFIED, 0).into(), (gateway, DISCARD).into()),
        IpAddr::V6(gateway) => {
            let scope = if gateway.is_unicast_link_local() {
                index
            } else {
                0
            };
            let target = SocketAddrV6::new(gateway, DISCARD, 0, scope);
            ((Ipv6Addr::UNSPECIFIED, 0).into(), target.into())
        }
    };
    let _ = UdpSocket::bind(own).and_then(|socket| socket.send_to(&[0], target));
}
