//! What can go wrong, by the driver's doing or by the host's.

use std::error::Error as StdError;
use std::io;

use vm_memory::GuestAddress;

/// What a driver did with a queue that no driver may do.
///
/// Each is the guest's fault and breaks its device, no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// More chains are available than the queue has entries.
    #[error("{available} chains are available in a ring of {size}")]
    TooManyAvailable {
        /// Chains that the driver claims to have made available.
        available: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A descriptor's index is not in the table.
    #[error("descriptor {index} is not in the table of {size}")]
    NotInTable {
        /// The index.
        index: u16,
        /// Entries of the table.
        size: u32,
    },
    /// A chain has more descriptors than its table, so that it visits one twice.
    #[error("the chain at descriptor {head} is a loop")]
    Loop {
        /// The chain's head.
        head: u16,
    },
    /// A buffer has no bytes.
    #[error("a buffer at {addr:#x} has no bytes")]
    Empty {
        /// The buffer's address.
        addr: u64,
    },
    /// A buffer, or a table, is not wholly in guest memory.
    #[error("{len} bytes at {addr:#x} are not in guest memory")]
    OutsideMemory {
        /// The guest-physical address.
        addr: u64,
        /// Bytes.
        len: u64,
    },
    /// A buffer for the device to read comes after one for it to write (virtio 1.2, 2.7.4.2).
    #[error("a readable buffer follows a writable one")]
    ReadableAfterWritable,
    /// An indirect table within an indirect table (virtio 1.2, 2.7.5.3.1).
    #[error("an indirect table refers to another one")]
    NestedIndirect,
    /// An indirect table that was not negotiated.
    #[error("an indirect table without the feature")]
    IndirectNotNegotiated,
    /// A descriptor that refers to a table and also to a next descriptor (virtio 1.2, 2.7.5.3.1).
    #[error("a descriptor is both indirect and chained")]
    IndirectWithNext,
    /// An indirect table that is no whole number of descriptors, or none.
    #[error("an indirect table of {len} bytes")]
    IndirectLength {
        /// Bytes of the table.
        len: u32,
    },
    /// A chain of more than [`Chain::MAX_BUFFERS`](crate::Chain::MAX_BUFFERS) buffers.
    #[error("the chain at descriptor {head} has too many buffers")]
    TooManyBuffers {
        /// The chain's head.
        head: u16,
    },
    /// A chain of 4 GiB and more (virtio 1.2, 2.7.5.2).
    #[error("the chain at descriptor {head} is too long")]
    TooLong {
        /// The chain's head.
        head: u16,
    },
    /// A chain has less bytes than what it should carry.
    #[error("a chain is {missing} bytes short")]
    TooShort {
        /// Bytes that are missing.
        missing: u64,
    },
    /// The queue's rings can not be used.
    #[error("the ring at {addr:#x} can not be used: {why}")]
    Ring {
        /// The guest-physical address of the ring.
        addr: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl QueueError {
    pub(crate) fn outside(addr: GuestAddress, len: u64) -> Self {
        Self::OutsideMemory { addr: addr.0, len }
    }
}

/// A device's own error.
pub type DeviceError = Box<dyn StdError + Send + Sync>;

/// Why a device, or a part of it, no longer works or can not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver misuses a queue.
    #[error("the driver misuses queue {queue}")]
    Queue {
        /// The queue's index in its device.
        queue: u16,
        /// How.
        source: QueueError,
    },
    /// The driver misuses a request in a way that only the device knows.
    #[error("the driver breaks the rules of the device: {0}")]
    Driver(&'static str),
    /// The device's own error, which the driver is not to blame for.
    #[error("the device failed")]
    Device(#[source] DeviceError),
    /// An operation of the host's kernel on a device's file descriptors failed.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The event loop of a worker failed.
    #[error("{action}: {source}")]
    Events {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: event_manager::Error,
    },
    /// A device describes itself in a way that the transport can not express.
    #[error("the device can not be offered: {0}")]
    Description(&'static str),
    /// A saved state does not fit the device.
    #[error("the saved state does not fit: {0}")]
    State(&'static str),
    /// A worker did not answer.
    #[error("a worker of the device has ended")]
    WorkerGone,
    /// The PCI side of the transport.
    #[error(transparent)]
    Pci(#[from] strata_pci::Error),
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}
