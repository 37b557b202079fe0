//! What a virtio device is to its transport.

use strata_memory::GuestMemory;

use crate::error::Error;
use crate::interrupt::ConfigInterrupt;
use crate::queue::Queue;
use crate::worker::Worker;

/// A device type's number (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// Network card.
    pub const NET: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const RNG: Self = Self(4);
    /// Traditional memory balloon.
    pub const BALLOON: Self = Self(5);
    /// Socket device.
    pub const VSOCK: Self = Self(19);
}

/// A virtio device: what it offers, and who serves its queues.
///
/// The device itself answers the rare questions, from the thread of a vCPU and under the
/// transport's lock: it must not block. Its [`Worker`]s serve the queues, each in a thread of its
/// own. What both need, they share (atomics, or a lock that is not held for long).
pub trait Device: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// A short name for messages and, with a number, for its threads: at most 11 bytes count.
    fn name(&self) -> &str;

    /// The largest size of each queue: a power of two, at most 32768. As many as there are queues,
    /// at most 1024, and always the same.
    fn queue_sizes(&self) -> &[u16];

    /// The device type's own feature bits. The transport adds
    /// [`features::TRANSPORT`](crate::features::TRANSPORT).
    fn features(&self) -> u64;

    /// Reads `data.len()` bytes of device configuration space at `offset`, little-endian. Bytes
    /// past its end are left as they are (the transport has zeroed them). `offset` may be anything.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// The driver writes to device configuration space. `offset` may be anything.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Called once, before the driver sees the device: by `change` the device tells its driver that
    /// configuration space has changed. It may keep clones, for whoever changes it.
    fn attach(&mut self, change: ConfigInterrupt) {
        let _ = change;
    }

    /// The driver is ready (DRIVER_OK): hand out the workers. Each gets a thread and serves the
    /// queues that it is assigned. Queues that are in no assignment are not served.
    ///
    /// # Errors
    /// Whatever keeps the device from working: it is then broken (NEEDS_RESET).
    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error>;

    /// The driver has reset the device. All workers are drained and dropped, on their own threads,
    /// so what they hand back in their `Drop` is here. Called only after
    /// [`activate`](Self::activate).
    fn reset(&mut self) {}
}

/// What a driver has set up.
#[derive(Debug)]
pub struct Activation {
    /// The negotiated features, the transport's among them.
    pub features: u64,
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The queues that the driver has enabled, by ascending [`Queue::index`]. There may be gaps.
    pub queues: Vec<Queue>,
}

impl Activation {
    /// Whether all bits of `feature` were negotiated.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }

    /// Takes the queue with this index out, if the driver has enabled it.
    pub fn take(&mut self, index: u16) -> Option<Queue> {
        let position = self.queues.iter().position(|q| q.index() == index)?;
        Some(self.queues.remove(position))
    }
}

/// A worker and its queues.
pub struct Assignment {
    /// The queues, which the worker's [`Context`](crate::Context) has in this order.
    pub queues: Vec<Queue>,
    /// Who serves them.
    pub worker: Box<dyn Worker>,
}

impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assignment")
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}
