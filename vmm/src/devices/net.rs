//! Network cards: connected as the configuration says, and put on the PCI bus.

use std::cell::RefCell;

use strata_net::{
    Backend, Card, CardConfig, InterfaceName, Link, MacAddr, Passt, Tap, bridge, stream_backend,
};

use super::Pci;
use crate::config::{DEFAULT_MTU, NetConfig, TapName, Vhost};
use crate::error::Error;
use crate::sys;

/// The machine's network cards, from their owner's side: that of the main thread.
#[derive(Default)]
pub struct Nets(RefCell<Vec<OpenNet>>);

/// A card on the bus.
#[derive(Clone)]
pub struct OpenNet {
    /// Its name.
    pub id: String,
    /// What it was made of.
    pub config: NetConfig,
    /// The host's end by another name, where a command gave it one.
    pub netdev: Option<String>,
    /// The tap, where it is on one.
    pub tap: Option<InterfaceName>,
    /// Whether the host's kernel moves its frames.
    pub vhost: bool,
    /// The guest's address, as the card was made.
    pub mac: MacAddr,
    /// Its cable.
    pub link: Link,
}

impl Nets {
    /// Connects the cards of `configs` and puts them on the bus.
    ///
    /// # Errors
    /// As [`Nets::add`].
    pub fn create(configs: &[NetConfig], pci: &Pci) -> Result<Self, Error> {
        let nets = Self::default();
        for config in configs {
            nets.add(config, None, pci)?;
        }
        Ok(nets)
    }

    /// Connects a card and puts it on the bus.
    ///
    /// # Errors
    /// [`Error::TakenMac`], [`Error::Net`], [`Error::InheritedFd`], and as [`Pci::add`].
    pub fn add(&self, config: &NetConfig, netdev: Option<&str>, pci: &Pci) -> Result<(), Error> {
        let id = config.id.as_deref().unwrap_or_default();
        // Before the host's side is touched.
        pci.check_free(id)?;
        let mac = match config.mac {
            Some(mac) => mac,
            None => MacAddr::random().map_err(|source| Error::Host {
                what: "draw a MAC address",
                source,
            })?,
        };
        // A guest tells its cards by their addresses, on whatever networks they are.
        if let Some(other) = self.0.borrow().iter().find(|net| net.mac == mac) {
            return Err(Error::TakenMac(mac, other.id.clone()));
        }
        let host_end = connect(config, mac)?;
        let card = CardConfig {
            name: id.to_owned(),
            mac,
            mtu: config.mtu.unwrap_or(host_end.mtu),
            rx_limit: config.rate_limit(),
            tx_limit: config.rate_limit(),
        };
        log::info!("{id} has the MAC address {mac}");
        let vhost = !host_end.backend.vhost.is_empty();
        let card = Card::new(card, host_end.backend)?;
        let link = card.link();
        pci.add(id, Box::new(card))?;
        self.0.borrow_mut().push(OpenNet {
            id: id.to_owned(),
            config: config.clone(),
            netdev: netdev.map(str::to_owned),
            tap: host_end.tap,
            vhost,
            mac,
            link,
        });
        Ok(())
    }

    /// The cards, in the order in which they were added.
    pub fn list(&self) -> Vec<OpenNet> {
        self.0.borrow().clone()
    }

    /// Gives up a card that is off the bus.
    pub fn forget(&self, id: &str) {
        self.0.borrow_mut().retain(|net| net.id != id);
    }
}

/// What a card is connected to.
struct HostEnd {
    backend: Backend,
    tap: Option<InterfaceName>,
    mtu: u16,
}

fn connect(config: &NetConfig, mac: MacAddr) -> Result<HostEnd, Error> {
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
        return Ok(HostEnd {
            backend,
            tap: None,
            mtu: DEFAULT_MTU,
        });
    }
    let tap = match config.fd {
        Some(fd) => handed_over(fd)?,
        None => Tap::open(config.tap.as_ref().and_then(TapName::named), config.queues)?,
    };
    let name = tap.name().clone();
    let mtu = match &config.bridge {
        Some(bridge) => {
            let mtu = bridge::attach(&name, bridge, config.mac.is_some().then_some(mac))?;
            log::info!("{name} is on the bridge {bridge}");
            mtu.try_into().unwrap_or(u16::MAX)
        }
        None => DEFAULT_MTU,
    };
    Ok(HostEnd {
        backend: on_tap(tap, config)?,
        tap: Some(name),
        mtu,
    })
}

/// A host end on `tap`, whose frames the kernel moves if it should and can.
fn on_tap(tap: Tap, config: &NetConfig) -> Result<Backend, Error> {
    let mut backend = tap.into_backend();
    match config.vhost {
        Vhost::Off => {}
        Vhost::On => backend.add_vhost_net()?,
        Vhost::Auto => {
            if let Err(error) = backend.add_vhost_net() {
                let id = config.id.as_deref().unwrap_or_default();
                log::info!("{id} goes without vhost-net: {error}");
            }
        }
    }
    Ok(backend)
}

/// The tap behind a descriptor that strata was started with.
fn handed_over(fd: i32) -> Result<Tap, Error> {
    let own = sys::inherited(fd).map_err(|source| Error::InheritedFd { fd, source })?;
    Tap::from_fds(vec![own]).map_err(|error| match error {
        // By the number that the user knows.
        strata_net::Error::NotATapFd { reason, .. } => {
            strata_net::Error::NotATapFd { fd, reason }.into()
        }
        error => error.into(),
    })
}
