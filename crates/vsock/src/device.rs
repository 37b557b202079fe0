//! The device's registers.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strata_virtio::{Activation, Assignment, Device, DeviceType};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::error::Error;
use crate::host::Host;
use crate::worker::VsockWorker;

/// Entries of the receive, transmit and event queues.
const QUEUES: [u16; 3] = [256, 256, 16];

/// A socket device (virtio 1.2, 5.10).
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    /// Here while no worker has it.
    host: Arc<Mutex<Option<Host>>>,
    transport_reset: Arc<EventFd>,
}

impl Vsock {
    /// A device for the guest with the context id `cid`, 3 to 2³²-2. Programs of the host connect to
    /// the unix socket at `path`, which is made here and removed with the device, and listen at
    /// `path_PORT`.
    ///
    /// # Errors
    /// [`Error::Cid`], [`Error::Path`], [`Error::Bind`] (also if there is something at `path`, but
    /// for a socket that nobody listens at), [`Error::EventFd`].
    pub fn new(cid: u64, path: impl AsRef<Path>) -> Result<Self, Error> {
        // 0 to 2 are nobody's, the guest's own and the host's; the last one is anybody's.
        if !(3..u64::from(u32::MAX)).contains(&cid) {
            return Err(Error::Cid(cid));
        }
        let host = Host::bind(path.as_ref())?;
        let transport_reset = EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd)?;
        Ok(Self {
            cid,
            host: Arc::new(Mutex::new(Some(host))),
            transport_reset: Arc::new(transport_reset),
        })
    }

    /// A handle for whoever restores the guest.
    pub fn handle(&self) -> VsockHandle {
        VsockHandle(Arc::clone(&self.transport_reset))
    }
}

/// Tells the guest that its connections are gone.
#[derive(Clone, Debug)]
pub struct VsockHandle(Arc<EventFd>);

impl VsockHandle {
    /// Closes all connections and tells the guest that they are gone (virtio 1.2, 5.10.6.7:
    /// TRANSPORT_RESET), as they are when its machine was restored somewhere else. A guest whose
    /// driver is not running hears of it when it is.
    ///
    /// # Errors
    /// Where the worker can not be told.
    pub fn reset_transport(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl Device for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::VSOCK
    }

    fn name(&self) -> &str {
        "vsock"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    /// None: streams only (5.10.3).
    fn features(&self) -> u64 {
        0
    }

    /// guest_cid (5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.cid.to_le_bytes();
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..));
        for (to, byte) in data.iter_mut().zip(from.unwrap_or(&[])) {
            *to = *byte;
        }
    }

    fn activate(
        &mut self,
        activation: Activation,
    ) -> Result<Vec<Assignment>, strata_virtio::Error> {
        // Now, since there may be none when it is needed.
        let retry = TimerFd::new().map_err(|error| strata_virtio::Error::Io {
            action: "make a timer",
            source: error.into(),
        })?;
        let host = lock(&self.host).take();
        let host = host.ok_or_else(|| strata_virtio::Error::Device("its socket is gone".into()))?;
        let worker = VsockWorker::new(
            self.cid,
            host,
            Arc::clone(&self.host),
            Arc::clone(&self.transport_reset),
            retry,
            &activation.queues,
        );
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(worker),
        }])
    }
}

pub(crate) fn lock<T>(home: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    home.lock().unwrap_or_else(PoisonError::into_inner)
}
