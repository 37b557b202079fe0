//! Rings that the host's kernel serves in the worker's stead (vhost), while it may.
//!
//! ```text
//!              kicked, link up, allowed                 start
//!   served here ─────────────────────────► handed over ───────► the kernel serves
//!        ▲                                                           │
//!        └──────────────── progress read back ◄──────────────────────┘
//!             link down, not allowed, pause, reset, or a ring that makes no sense
//! ```
//!
//! So the kernel needs to know nothing of links, pauses and dirty pages, and a bad ring breaks the
//! card by the same checks, with the same words, as without the kernel.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strata_virtio::{Context, Error, EventSet, Queue};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::worker::{ENDPOINT, RX, TX, Watched};
use crate::Vhost;

/// Whether the kernel may serve, as far as all pairs are concerned.
pub(super) struct Turns {
    allowed: AtomicBool,
    /// Wakes the worker of each pair to look again. None without vhost.
    wakes: Vec<Arc<EventFd>>,
}

impl Turns {
    pub(super) fn new(pairs: usize) -> std::io::Result<Self> {
        let wakes = (0..pairs).map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new));
        Ok(Self {
            allowed: AtomicBool::new(true),
            wakes: wakes.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Relaxed);
        self.wake();
    }

    /// Something has changed that decides who serves.
    pub(super) fn wake(&self) {
        for wake in &self.wakes {
            // The write orders the change before the worker's look. It fails only if the worker
            // has 2⁶⁴ wakes before it.
            let _ = wake.write(1);
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }

    pub(super) fn of_pair(&self, pair: usize) -> Option<Arc<EventFd>> {
        self.wakes.get(pair).map(Arc::clone)
    }
}

/// The kernel, as the worker of one pair has it.
pub(super) struct Kernel {
    vhost: Box<dyn Vhost>,
    turn: Arc<EventFd>,
    features: u64,
    serves: bool,
    /// Not to be asked again before the driver has set up the rings anew.
    refused: bool,
}

impl Kernel {
    pub(super) fn new(vhost: Box<dyn Vhost>, turn: Arc<EventFd>, features: u64) -> Self {
        Self {
            vhost,
            turn,
            features,
            serves: false,
            refused: false,
        }
    }

    pub(super) fn into_vhost(self) -> Box<dyn Vhost> {
        self.vhost
    }

    /// Becomes readable when [`should_change`](Self::should_change) may answer otherwise.
    pub(super) fn turn(&self) -> &EventFd {
        &self.turn
    }

    pub(super) fn error_fd(&self) -> &EventFd {
        self.vhost.error_fd()
    }

    pub(super) fn serves(&self) -> bool {
        self.serves
    }

    /// Whether somebody else has to serve than does, given that the kernel `may`.
    pub(super) fn should_change(&self, may: bool) -> bool {
        self.serves != (may && !self.refused)
    }

    /// The kernel has said that it can make no sense of a ring. Whoever is served here is told what
    /// is wrong, if anything is.
    pub(super) fn refuse(&mut self) {
        let _ = self.error_fd().read();
        self.refused = true;
    }

    /// Hands the rings over, of which nothing is in flight. Where the kernel does not take them,
    /// they go on to be served here.
    pub(super) fn hand_over(
        &mut self,
        endpoint: RawFd,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let (Some(rx), Some(tx)) = (context.queues.get(RX), context.queues.get(TX)) else {
            return Ok(());
        };
        if let Err(error) = self.vhost.start(endpoint, self.features, [rx, tx]) {
            log::warn!("vhost-net does not take a card's rings, which strata serves: {error}");
            self.refused = true;
            return Ok(());
        }
        self.serves = true;
        context.unwatch(&Watched(endpoint))?;
        for queue in [RX, TX] {
            context.watch_kicks(queue, false)?;
            // What was made available while nobody looked.
            context.queues.get(queue).map_or(Ok(()), Queue::kick)?;
        }
        Ok(())
    }

    /// Takes the rings back. What is there to do since is found by serving both of them.
    pub(super) fn take_back(
        &mut self,
        endpoint: RawFd,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        self.serves = false;
        let next = self.vhost.stop().map_err(|source| Error::Io {
            action: "take a card's rings back from vhost-net",
            source,
        })?;
        for (queue, next_avail) in [RX, TX].into_iter().zip(next) {
            if let Some(queue) = context.queues.get_mut(queue) {
                let next_used = used_index(queue)?;
                queue.set_progress(next_avail, next_used);
            }
            context.watch_kicks(queue, true)?;
        }
        watch_endpoint(endpoint, context)
    }
}

/// Watches for frames, and for room for them.
pub(super) fn watch_endpoint(endpoint: RawFd, context: &mut Context<'_>) -> Result<(), Error> {
    // Edge-triggered: frames that nobody has buffers for do not wake the thread again and again, and
    // nothing has to be changed when buffers come and go.
    let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
    context.watch(&Watched(endpoint), events, ENDPOINT)
}

/// The used ring's index, where the kernel has left its own (virtio 1.2 §2.7.8). The driver may have
/// overwritten it: then it looks for its buffers in the wrong place.
fn used_index(queue: &Queue) -> Result<u16, Error> {
    let at = GuestAddress(queue.state().used_ring + 2);
    let index = queue.memory().load::<u16>(at, Ordering::Acquire);
    index.map(u16::from_le).map_err(|_| Error::Io {
        action: "read the used ring",
        source: std::io::ErrorKind::InvalidData.into(),
    })
}
