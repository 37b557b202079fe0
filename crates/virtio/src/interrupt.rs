//! How a device tells its driver: queue interrupts, configuration changes, and that it is broken.

use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strata_pci::MsiSink;
use vmm_sys_util::eventfd::EventFd;

use crate::error::Error;

/// No vector (virtio 1.2, 4.1.4.3: VIRTIO_MSI_NO_VECTOR).
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// Bits of the ISR status (virtio 1.2, 4.1.4.5).
pub(crate) const ISR_QUEUE: u8 = 1;
pub(crate) const ISR_CONFIG: u8 = 2;

/// What the device's side and the registers' side of a device share. Every field is on its own:
/// nothing is published through one of them.
#[derive(Debug)]
pub(crate) struct Signals {
    sink: Arc<dyn MsiSink>,
    msix_enabled: AtomicBool,
    pub(crate) config_vector: AtomicU16,
    pub(crate) queue_vectors: Box<[AtomicU16]>,
    pub(crate) isr: AtomicU8,
    /// Counts configuration changes; the register has its low byte.
    pub(crate) generation: AtomicU32,
    /// Held while configuration space changes or is read: a change and its count are one.
    configuring: Mutex<()>,
    /// Whether the device is broken until its reset.
    pub(crate) needs_reset: AtomicBool,
    /// How often the device was broken.
    breaks: AtomicU32,
    /// Whether the driver has said DRIVER_OK: before, it gets no interrupt (virtio 1.2, 3.1.1).
    pub(crate) driver_ok: AtomicBool,
    /// Whether something changed since the driver has begun, before it could be told.
    untold: AtomicBool,
}

impl Signals {
    pub(crate) fn new(sink: Arc<dyn MsiSink>, queues: usize) -> Self {
        Self {
            sink,
            msix_enabled: AtomicBool::new(false),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU32::new(0),
            configuring: Mutex::new(()),
            needs_reset: AtomicBool::new(false),
            breaks: AtomicU32::new(0),
            driver_ok: AtomicBool::new(false),
            untold: AtomicBool::new(false),
        }
    }

    /// What a reset of the device does to them.
    pub(crate) fn reset(&self) {
        for vector in self.queue_vectors.iter().chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.isr.store(0, Ordering::Relaxed);
        self.needs_reset.store(false, Ordering::Relaxed);
        self.driver_ok.store(false, Ordering::Relaxed);
    }

    pub(crate) fn set_msix(&self, enabled: bool) {
        self.msix_enabled.store(enabled, Ordering::Relaxed);
    }

    /// Reads the ISR status, which clears it.
    pub(crate) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::Acquire)
    }

    fn trigger(&self, vector: &AtomicU16, isr: u8) -> Result<(), Error> {
        if self.msix_enabled.load(Ordering::Relaxed) {
            return match self.sink.event_fd(vector.load(Ordering::Relaxed)) {
                Some(event) => event.write(1).map_err(|source| Error::Io {
                    action: "trigger an interrupt",
                    source,
                }),
                None => Ok(()),
            };
        }
        // Without MSI-X the driver polls (virtio 1.2, 4.1.5.3): there is no INTx.
        self.isr.fetch_or(isr, Ordering::Release);
        Ok(())
    }

    /// Breaks the device (virtio 1.2, 2.1.2), and says so in the log: once until its reset, and not
    /// for ever, since a guest may break it as often as it likes.
    pub(crate) fn break_device(&self, name: &str, error: &dyn StdError) {
        const WARNINGS: u32 = 10;
        if self.needs_reset.swap(true, Ordering::SeqCst) {
            return;
        }
        self.config_interrupt();
        let level = if self.breaks.fetch_add(1, Ordering::Relaxed) < WARNINGS {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        log::log!(level, "{name} needs a reset: {}", Chained(error));
    }

    /// A driver begins, which has yet to look at the configuration.
    pub(crate) fn driver_begins(&self) {
        self.untold.store(false, Ordering::SeqCst);
    }

    /// The driver may be interrupted from now on. It is at once if the configuration is no longer
    /// what it may have read.
    pub(crate) fn driver_is_ok(&self) {
        self.driver_ok.store(true, Ordering::SeqCst);
        if self.untold.swap(false, Ordering::SeqCst) {
            self.config_interrupt();
        }
    }

    /// Keeps configuration space as it is.
    pub(crate) fn hold_config(&self) -> MutexGuard<'_, ()> {
        let held = self.configuring.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    fn config_interrupt(&self) {
        if !self.driver_ok.load(Ordering::SeqCst) {
            self.untold.store(true, Ordering::SeqCst);
            // Either this sees that the driver is ready meanwhile, or that one sees the note.
            if !self.driver_ok.load(Ordering::SeqCst) {
                return;
            }
        }
        // The bit is set with MSI-X, too (virtio 1.2, 4.1.5.4.1).
        self.isr.fetch_or(ISR_CONFIG, Ordering::Release);
        if let Err(error) = self.trigger(&self.config_vector, ISR_CONFIG) {
            log::warn!("a change of a device's configuration is not told: {error}");
        }
    }
}

/// The interrupt of one queue.
///
/// Triggering is one eventfd write: no lock, no allocation.
#[derive(Clone, Debug)]
pub struct QueueInterrupt {
    signals: Arc<Signals>,
    queue: u16,
}

impl QueueInterrupt {
    pub(crate) fn new(signals: Arc<Signals>, queue: u16) -> Self {
        Self { signals, queue }
    }

    /// Interrupts the driver, whether it wants it or not; see
    /// [`Queue::notify`](crate::Queue::notify).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn trigger(&self) -> Result<(), Error> {
        self.signals.trigger(self.vector(), ISR_QUEUE)
    }

    /// The eventfd that interrupts the driver, for vhost. `None` while the driver has given the
    /// queue no vector.
    pub fn event_fd(&self) -> Option<&EventFd> {
        let vector = self.vector().load(Ordering::Relaxed);
        self.signals.sink.event_fd(vector)
    }

    fn vector(&self) -> &AtomicU16 {
        &self.signals.queue_vectors[usize::from(self.queue)]
    }
}

/// Tells the driver that the device's configuration has changed.
#[derive(Clone, Debug)]
pub struct ConfigInterrupt(Arc<Signals>);

impl ConfigInterrupt {
    pub(crate) fn new(signals: Arc<Signals>) -> Self {
        Self(signals)
    }

    /// Makes a change that configuration space shows. No read of it comes between the change and
    /// its new generation, so that a driver sees when two halves of a field do not belong together
    /// (virtio 1.2, 2.5.1). Reads wait meanwhile: `change` only sets what they show, and calls
    /// nothing of the transport.
    pub fn change(&self, change: impl FnOnce()) {
        let held = self.0.hold_config();
        change();
        self.0.generation.fetch_add(1, Ordering::Release);
        drop(held);
        self.0.config_interrupt();
    }
}

/// An error and its sources in one line.
struct Chained<'a>(&'a dyn StdError);

impl fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
