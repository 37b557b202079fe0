//! The devices of which a machine has one: random numbers, balloon, console, sockets.

use std::sync::Arc;

use strata_balloon::{Balloon, BalloonHandle};
use strata_memory::GuestRam;
use strata_rng::Rng;
use strata_vsock::{Vsock, VsockHandle};

use super::{Pci, VirtioConsole};
use crate::config::MachineConfig;
use crate::error::Error;

/// What their owner can do with them.
pub struct SmallDevices {
    /// The balloon's size, and the guest's statistics.
    pub balloon: Option<BalloonHandle>,
    /// The console's ports and size.
    pub console: Option<VirtioConsole>,
    /// The end of all connections, after a restore.
    pub vsock: Option<VsockHandle>,
}

impl SmallDevices {
    /// Makes those that the machine has and puts them on the bus.
    ///
    /// # Errors
    /// [`Error::Host`], [`Error::Vsock`], as [`VirtioConsole::create`], and as [`Pci::add`].
    pub fn create(config: &MachineConfig, pci: &Pci, ram: &Arc<GuestRam>) -> Result<Self, Error> {
        if config.rng {
            let rng = Rng::urandom().map_err(|source| Error::Host {
                what: "open /dev/urandom",
                source,
            })?;
            pci.add("rng", Box::new(rng))?;
        }
        Ok(Self {
            balloon: balloon(config, pci, ram)?,
            console: VirtioConsole::create(&config.virtio_console, pci)?,
            vsock: vsock(config, pci)?,
        })
    }
}

fn balloon(
    config: &MachineConfig,
    pci: &Pci,
    ram: &Arc<GuestRam>,
) -> Result<Option<BalloonHandle>, Error> {
    let Some(config) = &config.balloon else {
        return Ok(None);
    };
    let options = strata_balloon::BalloonConfig {
        deflate_on_oom: config.deflate_on_oom,
        free_page_reporting: config.free_page_reporting,
        stats: true,
    };
    let balloon = Balloon::new(Arc::clone(ram), options).map_err(|source| Error::Host {
        what: "create the balloon's eventfd",
        source,
    })?;
    let handle = balloon.handle();
    handle.set_target(config.size.bytes());
    pci.add("balloon", Box::new(balloon))?;
    Ok(Some(handle))
}

fn vsock(config: &MachineConfig, pci: &Pci) -> Result<Option<VsockHandle>, Error> {
    let Some(config) = &config.vsock else {
        return Ok(None);
    };
    let vsock = Vsock::new(config.cid, &config.socket)?;
    let handle = vsock.handle();
    pci.add("vsock", Box::new(vsock))?;
    Ok(Some(handle))
}
