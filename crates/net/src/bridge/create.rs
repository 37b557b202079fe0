//! Making a bridge.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::dns::Dns;
use super::ipconfig::{Immovable, IpConfig};
use super::journal::{self, Journal, Lock, Operation, Record};
use super::reach::{self, Goal};
use super::{Change, Host, Report, persist};
use crate::Error;
use crate::error::link_error;
use crate::netlink::{Link, Netlink};

/// How long gateways have to answer before the change, to be expected to answer after it.
const BEFORE: Duration = Duration::from_secs(1);

/// Makes the bridge `change.bridge`. With an uplink, makes that NIC its port and moves the NIC's
/// addresses, routes and DNS servers to the bridge, which takes the NIC's MAC address and MTU too.
/// With `persist`, writes the distribution's network configuration, so that it is so after a boot.
///
/// The host stays as it was unless this returns `Ok`.
///
/// # Errors
/// [`Error::Exists`], [`Error::NoSuchLink`], [`Error::UplinkUnfit`], [`Error::UplinkTaken`] and
/// [`Error::Immovable`] before anything is changed; [`Error::CutOff`] after everything was put back;
/// [`Error::RollBack`] when that failed.
pub fn create(host: &Host, mut change: Change, persist: bool) -> Result<Report, Error> {
    let lock = Lock::take(host)?;
    let mut report = Report::default();
    report_recovered(&mut report, journal::recover_locked(host, &lock)?);
    let name = change.bridge.to_string();
    let mut netlink = Netlink::open().map_err(|error| link_error("ask about", &name, error))?;
    let look = |netlink: &mut Netlink, name: &str| {
        netlink
            .link(name)
            .map_err(|error| link_error("look for", name, error))
    };
    if let Some(link) = look(&mut netlink, &name)? {
        return Err(Error::Exists {
            what: if link.is_bridge() {
                "a bridge"
            } else {
                "an interface"
            },
            name,
        });
    }
    let uplink = match &change.uplink {
        None => None,
        Some(uplink) => {
            let link = look(&mut netlink, uplink.as_str())?;
            let link = link.ok_or_else(|| Error::NoSuchLink {
                what: "interface",
                name: uplink.to_string(),
            })?;
            check_uplink(&mut netlink, &link)?;
            Some(Uplink::examine(host, &mut netlink, link, &mut report)?)
        }
    };
    let files = if persist {
        persist::plan_create(host, &name, uplink.as_ref())?
    } else {
        Vec::new()
    };

    let mut record = Record::new(Operation::Create, &change.bridge);
    if let Some(uplink) = &uplink {
        record.uplink = Some(uplink.link.name.clone());
        record.changes = uplink.config.changes_for(&uplink.link);
    }
    let mut journal = Journal::begin(host, record, &mut change)?;
    let done = build(host, &mut netlink, &change, uplink.as_ref(), &mut report)
        .and_then(|()| journal.write_files(&files));
    match done {
        Ok(files) => report.files = files,
        Err(why) => return Err(journal.roll_back(why)),
    }
    journal.commit()?;
    Ok(report)
}

/// A NIC that is going to be a port, and what depends on it.
pub(crate) struct Uplink {
    pub link: Link,
    pub config: IpConfig,
    pub dns: Dns,
    goal: Goal,
}

impl Uplink {
    /// Looks at what `link` is configured with, and which of its gateways answer.
    pub(crate) fn examine(
        host: &Host,
        netlink: &mut Netlink,
        link: Link,
        report: &mut Report,
    ) -> Result<Self, Error> {
        let failed = |error| link_error("look at", &link.name, error);
        let config = IpConfig::read(netlink, &link).map_err(failed)?;
        if let Some(Immovable(route)) = config.immovable() {
            return Err(Error::Immovable {
                name: link.name,
                route,
            });
        }
        let gateways = config.gateways();
        let answering = reach::answering(netlink, link.index, &gateways, BEFORE).map_err(failed)?;
        if answering.is_empty() && !gateways.is_empty() {
            report.notes.push(format!(
                "no gateway answered on {} even before the change, so only its carrier was checked \
                 after it",
                link.name
            ));
        }
        if config
            .addresses
            .iter()
            .any(|address| !address.is_permanent())
        {
            report.notes.push(format!(
                "{} has leased addresses, which were moved as they are: its DHCP client has to \
                 change interfaces too, which --persist arranges",
                link.name
            ));
        }
        let goal = Goal {
            carrier: link.has_carrier(),
            gateways: answering,
        };
        let dns = Dns::read(host, &link.name);
        Ok(Self {
            link,
            config,
            dns,
            goal,
        })
    }

    /// Configures `to` as this one was, and waits until the network answers there.
    pub(crate) fn move_to(
        &self,
        host: &Host,
        netlink: &mut Netlink,
        to: &Link,
        timeout: Duration,
        report: &mut Report,
    ) -> Result<(), Error> {
        for change in self.config.changes_for(to) {
            netlink
                .replay(&change.message)
                .map_err(|source| Error::Move {
                    what: change.what.clone(),
                    to: to.name.clone(),
                    source,
                })?;
            report.moved.push(change.what);
        }
        if !self.dns.is_empty() {
            report.notes.extend(self.dns.apply(host, &to.name));
        }
        let missing = reach::wait(netlink, to.index, &self.goal, timeout)
            .map_err(|error| link_error("watch", &to.name, error))?;
        match missing {
            None => Ok(()),
            Some(missing) => Err(Error::CutOff {
                name: to.name.clone(),
                seconds: timeout.as_secs(),
                missing: describe(&missing),
            }),
        }
    }

    /// Takes away what the interface is configured with.
    pub(crate) fn strip(&self, netlink: &mut Netlink) -> io::Result<()> {
        self.config.remove_addresses(netlink)?;
        self.config.remove_routes(netlink)
    }
}

fn describe(missing: &Goal) -> String {
    let mut parts = Vec::new();
    if missing.carrier {
        parts.push("no carrier".to_owned());
    }
    let addresses: Vec<_> = missing.gateways.iter().map(IpAddr::to_string).collect();
    if !addresses.is_empty() {
        parts.push(format!(
            "no answer from the gateway {}",
            addresses.join(", ")
        ));
    }
    parts.join(" and ")
}

pub(crate) fn report_recovered(report: &mut Report, bridges: Vec<String>) {
    for bridge in bridges {
        report.notes.push(format!(
            "a change of {bridge} that was left half done has been undone first"
        ));
    }
}

fn check_uplink(netlink: &mut Netlink, link: &Link) -> Result<(), Error> {
    let unfit = |reason, remedy| {
        Err(Error::UplinkUnfit {
            name: link.name.clone(),
            reason,
            remedy,
        })
    };
    if let Some(index) = link.master {
        let links = netlink
            .links()
            .map_err(|error| link_error("look for", &link.name, error))?;
        let master = links.into_iter().find(|link| link.index == index);
        return Err(Error::UplinkTaken {
            name: link.name.clone(),
            master: master.map_or_else(|| index.to_string(), |master| master.name),
        });
    }
    if link.is_loopback() || link.mac.len() != 6 {
        return unfit("it is no Ethernet interface", "name a NIC");
    }
    if link.is_bridge() {
        return unfit("it is a bridge itself", "use it as it is, by bridge=");
    }
    if is_wireless(&link.name) {
        return unfit(
            "a wireless station can carry no other's frames",
            "use --net user, or route to a bridge without uplink",
        );
    }
    if !link.is_up() {
        return unfit("it is down", "set it up first by `ip link set dev NAME up`");
    }
    Ok(())
}

/// `/proc/net/wireless` lists the calling thread's wireless interfaces, each before a colon.
fn is_wireless(name: &str) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/wireless").unwrap_or_default();
    let mut names = table.lines().filter_map(|line| line.split_once(':'));
    names.any(|(listed, _)| listed.trim() == name)
}

fn build(
    host: &Host,
    netlink: &mut Netlink,
    change: &Change,
    uplink: Option<&Uplink>,
    report: &mut Report,
) -> Result<(), Error> {
    let name = change.bridge.as_str();
    netlink
        .add_bridge(name, uplink.map(|uplink| &uplink.link))
        .map_err(|error| link_error("make the bridge", name, error))?;
    let Some(uplink) = uplink else {
        return Ok(());
    };
    let found = netlink
        .link(name)
        .and_then(|link| link.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let bridge = found.map_err(|error| link_error("look for", name, error))?;
    let port = &uplink.link;
    netlink
        .set_master(port.index, Some(bridge.index))
        .map_err(|error| link_error("make a port of", &port.name, error))?;
    uplink
        .strip(netlink)
        .map_err(|error| link_error("take the addresses from", &port.name, error))?;
    uplink.move_to(host, netlink, &bridge, change.timeout, report)
}
