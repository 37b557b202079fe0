//! Taking a bridge away.

use super::create::{Uplink, report_recovered};
use super::journal::{self, Journal, Lock, Operation, Record};
use super::{Change, Host, Report, persist};
use crate::Error;
use crate::error::link_error;
use crate::netlink::{Link, Netlink};

/// Deletes the bridge `change.bridge`, after its addresses, routes and DNS servers have gone to its
/// uplink and the network answers there; removes what [`create`](super::create()) persisted.
/// `force` deletes a bridge that other interfaces, such as guests' taps, are ports of.
///
/// The host stays as it was unless this returns `Ok`.
///
/// # Errors
/// [`Error::NoSuchLink`], [`Error::NotABridge`], [`Error::BridgeInUse`] and
/// [`Error::WhichUplink`] before anything is changed; [`Error::CutOff`] after everything was put
/// back; [`Error::RollBack`] when that failed.
pub fn delete(host: &Host, mut change: Change, force: bool) -> Result<Report, Error> {
    let lock = Lock::take(host)?;
    let mut report = Report::default();
    report_recovered(&mut report, journal::recover_locked(host, &lock)?);
    let name = change.bridge.to_string();
    let mut netlink = Netlink::open().map_err(|error| link_error("ask about", &name, error))?;
    let links = netlink
        .links()
        .map_err(|error| link_error("look for", &name, error))?;
    let bridge = links.iter().find(|link| link.name == name);
    let bridge = bridge.cloned().ok_or_else(|| Error::NoSuchLink {
        what: "bridge",
        name: name.clone(),
    })?;
    if !bridge.is_bridge() {
        return Err(Error::NotABridge { name });
    }
    let mut ports = links;
    ports.retain(|link| link.master == Some(bridge.index));
    let uplink = take_uplink(&mut ports, &change)?;
    if !ports.is_empty() && !force {
        let names: Vec<_> = ports.into_iter().map(|port| port.name).collect();
        return Err(Error::BridgeInUse {
            name,
            ports: names.join(", "),
        });
    }
    let files = persist::plan_delete(host, &name)?;

    let mut record = Record::new(Operation::Delete, &change.bridge);
    let mut journal;
    if let Some(link) = uplink {
        let from = Uplink::examine(host, &mut netlink, bridge.clone(), &mut report)?;
        record.uplink = Some(link.name.clone());
        record.changes = from.config.changes_for(&bridge);
        journal = Journal::begin(host, record, &mut change)?;
        if let Err(why) = release(host, &mut netlink, &change, &from, &link, &mut report) {
            return Err(journal.roll_back(why));
        }
    } else {
        journal = Journal::begin(host, record, &mut change)?;
    }
    match journal.write_files(&files) {
        Ok(files) => report.files = files,
        Err(why) => return Err(journal.roll_back(why)),
    }
    // From here on the host does not need the bridge, so that its end can not fail half way.
    journal.commit()?;
    netlink
        .delete_link(bridge.index)
        .map_err(|error| link_error("delete", &name, error))?;
    Ok(report)
}

/// Takes the uplink out of the bridge's ports.
fn take_uplink(ports: &mut Vec<Link>, change: &Change) -> Result<Option<Link>, Error> {
    let bridge = change.bridge.to_string();
    if let Some(name) = &change.uplink {
        let found = ports.iter().position(|port| port.name == name.as_str());
        let position = found.ok_or_else(|| Error::NotAPort {
            name: name.to_string(),
            bridge,
        })?;
        return Ok(Some(ports.remove(position)));
    }
    let mut candidates =
        (0..ports.len()).filter(|&at| ports.get(at).is_some_and(|port| !port.is_tap()));
    match (candidates.next(), candidates.next()) {
        (None, _) => Ok(None),
        (Some(position), None) => Ok(Some(ports.remove(position))),
        (Some(_), Some(_)) => Err(Error::WhichUplink { bridge }),
    }
}

fn release(
    host: &Host,
    netlink: &mut Netlink,
    change: &Change,
    from: &Uplink,
    uplink: &Link,
    report: &mut Report,
) -> Result<(), Error> {
    let bridge = &from.link;
    from.strip(netlink)
        .map_err(|error| link_error("take the addresses from", &bridge.name, error))?;
    netlink
        .set_master(uplink.index, None)
        .map_err(|error| link_error("free", &uplink.name, error))?;
    from.move_to(host, netlink, uplink, change.timeout, report)
}
