//! The modern virtio-pci transport (virtio 1.2, 4.1).

pub(crate) mod common;
mod layout;
mod lifecycle;
mod pci;
mod state;

use std::io;

use vmm_sys_util::eventfd::EventFd;

pub use pci::VirtioPci;
pub use state::{TransportQueueState, TransportState};

/// How a write of the guest's becomes a kick without an exit to this process: KVM's ioeventfd, or
/// a table of a test.
pub trait EventBinder: Send + Sync {
    /// Signals `event` for every write at exactly this guest-physical address, whatever its width
    /// and value.
    ///
    /// # Errors
    /// Where it can not be done, the guest's writes exit, and the transport signals the event.
    fn bind(&self, address: u64, event: &EventFd) -> io::Result<()>;

    /// Ends what [`bind`](Self::bind) did.
    ///
    /// # Errors
    /// Where it was not done.
    fn unbind(&self, address: u64, event: &EventFd) -> io::Result<()>;
}
