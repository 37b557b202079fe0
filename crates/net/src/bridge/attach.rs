//! Connecting a guest's tap to a bridge.

use crate::error::link_error;
use crate::netlink::Netlink;
use crate::{Error, InterfaceName, MacAddr};

/// Makes `tap` a port of `bridge`, gives it the bridge's MTU and sets it up; returns that MTU in
/// bytes, for the guest's side. `mac` is the guest's address, if it is known.
///
/// # Errors
/// [`Error::NoSuchLink`] and [`Error::NotABridge`] for the bridge, [`Error::MacTaken`] when another
/// interface of this host or of the bridge has the address, [`Error::LinkDenied`] without
/// `CAP_NET_ADMIN`.
pub fn attach(
    tap: &InterfaceName,
    bridge: &InterfaceName,
    mac: Option<MacAddr>,
) -> Result<u32, Error> {
    let failed = |error| link_error("ask about", bridge.as_str(), error);
    let mut netlink = Netlink::open().map_err(failed)?;
    let links = netlink.links().map_err(failed)?;
    let find = |what, name: &InterfaceName| {
        let found = links.iter().find(|link| link.name == name.as_str());
        found.ok_or_else(|| Error::NoSuchLink {
            what,
            name: name.to_string(),
        })
    };
    let master = find("bridge", bridge)?;
    if !master.is_bridge() {
        return Err(Error::NotABridge {
            name: bridge.to_string(),
        });
    }
    let port = find("interface", tap)?;
    if let Some(mac) = mac {
        let own = links.iter().find(|link| link.mac == mac.bytes());
        let learnt = netlink
            .bridge_knows(master.index, mac.bytes())
            .map_err(failed)?;
        if own.is_some() || learnt {
            let owner = own.map_or_else(
                || format!("a machine on {bridge}"),
                |link| link.name.clone(),
            );
            return Err(Error::MacTaken { mac, owner });
        }
    }
    netlink
        .set_up(port.index, master.mtu)
        .map_err(|error| link_error("set up", tap.as_str(), error))?;
    netlink
        .set_master(port.index, Some(master.index))
        .map_err(|error| link_error("make a port of", tap.as_str(), error))?;
    Ok(master.mtu)
}
