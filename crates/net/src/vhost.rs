//! vhost-net: the host's kernel moves frames between a driver's rings and a tap by itself.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use strata_virtio::{Queue, features as ring};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::sys::vhost::{Device, Event};
use crate::{Backend, Error, Vhost, features};

/// What of the negotiated features concerns the rings, or the header before a frame.
const RING_FEATURES: u64 =
    ring::VERSION_1 | ring::RING_EVENT_IDX | ring::RING_INDIRECT_DESC | features::MRG_RXBUF;

/// One open /dev/vhost-net, for one queue pair.
struct VhostNet {
    device: Device,
    known: u64,
    error: EventFd,
}

impl VhostNet {
    fn open() -> io::Result<Self> {
        let device = Device::open()?;
        Ok(Self {
            known: device.features()?,
            device,
            error: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    fn set_up(&mut self, tap: RawFd, negotiated: u64, queues: [&Queue; 2]) -> io::Result<()> {
        let wanted = negotiated & RING_FEATURES;
        if wanted & !self.known != 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let device = &mut self.device;
        device.set_owner()?;
        device.set_features(wanted)?;
        device.set_memory(queues[0].memory())?;
        for (queue, index) in queues.into_iter().zip(0..) {
            // Without MSI-X the ISR status has to be set, which the kernel does not know.
            let call = queue.interrupt().event_fd();
            let call = call.ok_or(io::ErrorKind::Unsupported)?;
            device.set_ring(index, queue)?;
            device.set_base(index, queue.state().next_avail)?;
            device.set_event(index, Event::Error, self.error.as_raw_fd())?;
            device.set_event(index, Event::Call, call.as_raw_fd())?;
            device.set_event(index, Event::Kick, queue.kick_fd().as_raw_fd())?;
        }
        for index in 0..2 {
            device.set_tap(index, Some(tap))?;
        }
        Ok(())
    }
}

impl Vhost for VhostNet {
    fn start(&mut self, endpoint: RawFd, features: u64, queues: [&Queue; 2]) -> io::Result<()> {
        let done = self.set_up(endpoint, features, queues);
        if done.is_err() {
            // The first error is the one to tell. Where this one fails, nothing was begun.
            let _ = self.device.reset_owner();
        }
        done
    }

    fn stop(&mut self) -> io::Result<[u16; 2]> {
        // Both, before anything is asked: then nothing is in flight.
        let ended = [0, 1].map(|index| self.device.set_tap(index, None));
        let bases = [0, 1].map(|index| self.device.base(index));
        self.device.reset_owner()?;
        for ended in ended {
            ended?;
        }
        let [rx, tx] = bases;
        Ok([rx?, tx?])
    }

    fn error_fd(&self) -> &EventFd {
        &self.error
    }
}

impl Backend {
    /// Lets the host's kernel serve the rings of a tap's card by itself (vhost-net).
    ///
    /// # Errors
    /// [`Error::NoVhost`] where the host does not offer it, [`Error::VhostDenied`] without the right
    /// to it, and [`Error::Vhost`] for everything else. The backend is as before then.
    pub fn add_vhost_net(&mut self) -> Result<(), Error> {
        let open = |_| VhostNet::open().map(|opened| Box::new(opened) as Box<dyn Vhost>);
        let opened = self.endpoints.iter().map(open);
        self.vhost = opened.collect::<io::Result<_>>().map_err(open_error)?;
        Ok(())
    }
}

fn open_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::NoVhost { source },
        Some(libc::EPERM | libc::EACCES) => Error::VhostDenied,
        _ => Error::Vhost { source },
    }
}
