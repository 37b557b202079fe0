//! The device's registers.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use strata_virtio::{Activation, Assignment, ConfigInterrupt, Device, DeviceType, Error};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::port::{Port, Stream};
use crate::worker::ConsoleWorker;

/// Ports that a console may have.
pub const MAX_PORTS: usize = 31;

/// Features (virtio 1.2, 5.3.3).
pub(crate) const SIZE: u64 = 1;
pub(crate) const MULTIPORT: u64 = 1 << 1;

/// Entries of a queue.
const QUEUE: u16 = 128;

/// What the device, its worker and its handles share.
pub(crate) struct Shared {
    /// Columns in the lower half, rows in the upper.
    pub(crate) size: AtomicU32,
    /// Whether the guest has yet to hear of the size.
    pub(crate) resized: AtomicBool,
    /// Streams that are to be the host's ends of ports, by port.
    pub(crate) arrived: Mutex<Vec<Option<Box<dyn Stream>>>>,
    /// Tells the worker of a new size, and of streams.
    pub(crate) news: EventFd,
    pub(crate) change: OnceLock<ConfigInterrupt>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.load(Ordering::Relaxed);
        f.debug_struct("Shared")
            .field("size", &size)
            .finish_non_exhaustive()
    }
}

/// A console's owner's side: how large it is, and who is at the host's ends.
#[derive(Clone, Debug)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// The consoles' size from now on.
    ///
    /// # Errors
    /// Where the worker can not be told.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = u32::from(columns) | u32::from(rows) << 16;
        let set = || self.0.size.store(size, Ordering::Release);
        match self.0.change.get() {
            Some(change) => change.change(set),
            None => set(),
        }
        self.0.resized.store(true, Ordering::Release);
        self.0.news.write(1)
    }

    /// Puts `stream` at the host's end of the port with this index, in place of whoever was there:
    /// that stream is closed.
    ///
    /// # Errors
    /// For a port that there is not, and where the worker can not be told.
    pub fn connect(&self, port: usize, stream: impl Stream + 'static) -> io::Result<()> {
        let arrived = &self.0.arrived;
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let no_port = || io::Error::new(io::ErrorKind::NotFound, "the console has no such port");
        *arrived.get_mut(port).ok_or_else(no_port)? = Some(Box::new(stream));
        drop(arrived);
        self.0.news.write(1)
    }
}

/// A console with its ports (virtio 1.2, 5.3).
pub struct Console {
    /// Here while no worker has them.
    ports: Arc<Mutex<Option<Vec<Port>>>>,
    count: usize,
    queues: Vec<u16>,
    shared: Arc<Shared>,
}

impl Console {
    /// A console with `ports`: 1 to [`MAX_PORTS`]. Port 0 is the one that a driver without many
    /// ports uses, and should be a console. One console port and nothing else is offered as the
    /// simple device without control messages.
    ///
    /// # Errors
    /// For another number of ports, a name of more than 255 bytes, and where there is no eventfd to
    /// be had.
    pub fn new(ports: Vec<Port>) -> io::Result<Self> {
        let count = ports.len();
        let fits = (1..=MAX_PORTS).contains(&count) && ports.iter().all(|p| p.name.len() <= 255);
        if !fits {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a console has 1 to 31 ports, with names of up to 255 bytes",
            ));
        }
        let simple = matches!(&ports[..], [port] if port.name.is_empty());
        // Two for each port, and two for control messages.
        let queues = if simple { 2 } else { 2 * count + 2 };
        let shared = Shared {
            size: AtomicU32::new(0),
            resized: AtomicBool::new(false),
            arrived: Mutex::new((0..count).map(|_| None).collect()),
            news: EventFd::new(EFD_NONBLOCK)?,
            change: OnceLock::new(),
        };
        Ok(Self {
            ports: Arc::new(Mutex::new(Some(ports))),
            count,
            queues: vec![QUEUE; queues],
            shared: Arc::new(shared),
        })
    }

    /// A handle for whoever knows the terminal's size, or who connects.
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle(Arc::clone(&self.shared))
    }

    fn is_simple(&self) -> bool {
        self.queues.len() == 2
    }
}

impl Device for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::CONSOLE
    }

    fn name(&self) -> &str {
        "console"
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        if self.is_simple() {
            SIZE
        } else {
            SIZE | MULTIPORT
        }
    }

    /// cols, rows, max_nr_ports (5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let size = self.shared.size.load(Ordering::Acquire);
        let config = (u64::from(size) | (self.count as u64) << 32).to_le_bytes();
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..));
        for (to, byte) in data.iter_mut().zip(from.unwrap_or(&[])) {
            *to = *byte;
        }
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        // Attached once.
        let _ = self.shared.change.set(change);
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        let ports = lock(&self.ports).take();
        let ports = ports.ok_or_else(|| Error::Device("its ports are gone".into()))?;
        let worker = ConsoleWorker::new(
            ports,
            Arc::clone(&self.ports),
            Arc::clone(&self.shared),
            activation.has(MULTIPORT),
            &activation.queues,
        );
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(worker),
        }])
    }
}

pub(crate) fn lock<T>(home: &Mutex<Option<T>>) -> std::sync::MutexGuard<'_, Option<T>> {
    home.lock().unwrap_or_else(PoisonError::into_inner)
}
