//! The host's end of a network card.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use strata_virtio::{IoVec, Queue};
use vmm_sys_util::eventfd::EventFd;

use crate::Offloads;
use crate::sys::ReceiveList;

/// Where the frames of one queue pair come from and go to. Frames have a header of
/// [`HEADER_LEN`](crate::HEADER_LEN) bytes before them, in both directions.
///
/// Nothing here blocks. The descriptor is watched edge-triggered, for both directions.
pub trait Endpoint: Send {
    /// What to watch.
    fn fd(&self) -> RawFd;

    /// Receives the next frame into `list`, and returns its bytes with the header: more than the
    /// buffers of the guest in `list` hold if it did not fit.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; everything else is counted, and nothing
    /// is tried until the descriptor is ready again.
    fn receive(&mut self, list: &mut ReceiveList) -> io::Result<usize>;

    /// Sends a frame that lies in guest memory.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room: the frame is sent again when the
    /// descriptor is ready. With everything else the frame is dropped.
    fn send(&mut self, frame: &[IoVec]) -> io::Result<()>;

    /// Goes on with what [`send`](Self::send) has taken and not yet passed on. Called when the
    /// descriptor can be written.
    ///
    /// # Errors
    /// As of `send`.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is common to all queue pairs of a card, on the host's side.
pub trait Uplink: Send + Sync {
    /// The offloads that frames may have, in both directions.
    fn known_offloads(&self) -> Offloads;

    /// From now on the guest takes frames that have `offloads`.
    ///
    /// # Errors
    /// What the host answered.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// From now on the first `pairs` queue pairs are in use, and no others get frames.
    ///
    /// # Errors
    /// What the host answered.
    fn set_pairs(&self, pairs: u16) -> io::Result<()>;
}

/// Who can serve the rings of one queue pair without this crate, once they are handed over: the
/// host's kernel, [vhost-net](Backend::add_vhost_net).
///
/// Frames then pass between the driver's rings and the endpoint's descriptor, kicks and interrupts by
/// the eventfds of the queues. Nobody marks the pages that are written.
pub trait Vhost: Send {
    /// Serves the receive and the send queue, in this order, from where they are. `features` are all
    /// that were negotiated. The queues' memory stays mapped until [`stop`](Self::stop).
    ///
    /// # Errors
    /// What the host answered. Nothing is served then, nor held.
    fn start(&mut self, endpoint: RawFd, features: u64, queues: [&Queue; 2]) -> io::Result<()>;

    /// Ends it, with nothing in flight, and returns the index of the next available chain of each
    /// queue. Called only after [`start`](Self::start).
    ///
    /// # Errors
    /// What the host answered. How far the queues were served is not known then.
    fn stop(&mut self) -> io::Result<[u16; 2]>;

    /// Readable when it can make no sense of a ring, and serves it no more.
    fn error_fd(&self) -> &EventFd;
}

/// The host's end of a network card: one endpoint for each queue pair.
pub struct Backend {
    /// The endpoints, at least one.
    pub endpoints: Vec<Box<dyn Endpoint>>,
    /// What they have in common.
    pub uplink: Arc<dyn Uplink>,
    /// Who serves the rings in the card's stead: one for each endpoint, or none at all.
    pub vhost: Vec<Box<dyn Vhost>>,
}
