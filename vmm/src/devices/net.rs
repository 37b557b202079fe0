//! Network cards: connected as the configuration says, and put on the PCI bus.

use std::os::fd::OwnedFd;

use strata_net::{
    Backend, Card, CardConfig, MacAddr, Passt, RateLimit, Tap, bridge, stream_backend,
};

use super::Pci;
use crate::config::NetConfig;
use crate::error::Error;
use crate::sys;

/// Ethernet's MTU, where neither the user nor a bridge says another.
const MTU: u16 = 1500;

/// Connects the cards of `configs` and puts them on the bus.
///
/// # Errors
/// [`Error::Net`], [`Error::InheritedFd`], and as [`Pci::add`].
pub fn create(configs: &[NetConfig], pci: &Pci) -> Result<(), Error> {
    for config in configs {
        let id = config.id.as_deref().unwrap_or_default();
        let mac = match config.mac {
            Some(mac) => mac,
            None => MacAddr::random().map_err(|source| Error::Host {
                what: "draw a MAC address",
                source,
            })?,
        };
        let (backend, mtu) = connect(config, mac)?;
        let card = CardConfig {
            name: id.to_owned(),
            mac,
            mtu: config.mtu.unwrap_or(mtu),
            rx_limit: RateLimit::default(),
            tx_limit: RateLimit::default(),
        };
        log::info!("{id} has the MAC address {mac}");
        pci.add(id, Box::new(Card::new(card, backend)?))?;
    }
    Ok(())
}

/// The card's host end, and its MTU.
fn connect(config: &NetConfig, mac: MacAddr) -> Result<(Backend, u16), Error> {
    if config.user {
        let forwards = config.forwards().unwrap_or_default();
        let passt = Passt {
            forwards,
            ..Passt::default()
        };
        let backend = stream_backend(passt.start()?).map_err(|source| Error::Host {
            what: "talk to passt",
            source,
        })?;
        return Ok((backend, MTU));
    }
    if let Some(fd) = config.fd {
        let fd = sys::inherited(fd).map_err(|source| Error::InheritedFd { fd, source })?;
        let fds: Vec<OwnedFd> = vec![fd];
        return Ok((Tap::from_fds(fds)?.into_backend(), MTU));
    }
    let tap = Tap::open(config.tap.as_ref(), config.queues.unwrap_or(1))?;
    let mtu = match &config.bridge {
        Some(name) => {
            let mtu = bridge::attach(tap.name(), name, config.mac.is_some().then_some(mac))?;
            log::info!("{} is on the bridge {name}", tap.name());
            mtu.try_into().unwrap_or(u16::MAX)
        }
        None => MTU,
    };
    Ok((tap.into_backend(), mtu))
}
