//! The thread of one queue pair.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_virtio::{Context, Error, EventSet, Worker};
use vmm_sys_util::timerfd::TimerFd;

use super::control::Control;
use super::kernel::{Kernel, watch_endpoint};
use super::rx::Receiver;
use super::tx::Sender;
use super::{HostEnd, Shared, Slot};
use crate::Endpoint;

/// Positions in the worker's queues.
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
/// The control queue, which the first pair's worker serves.
const CONTROL: usize = 2;

/// Tokens of the files that are watched.
pub(super) const ENDPOINT: u32 = 0;
const TIMER: u32 = 1;
/// Somebody else may have to serve the rings from now on.
const TURN: u32 = 2;
/// The kernel can make no sense of a ring.
const CONFUSED: u32 = 3;

/// Why a direction stopped.
pub(super) enum Served {
    /// Its budget is used up, and there is more to do.
    More,
    /// Nothing to do before the next kick, or the next event of the endpoint.
    Waiting,
    /// Nothing may be done for so long.
    Throttled(Duration),
}

/// Serves the receive and the send queue of one pair.
pub(super) struct PairWorker {
    receiver: Receiver,
    sender: Sender,
    control: Option<Control>,
    endpoint: Option<Box<dyn Endpoint>>,
    /// Where the host's end goes when the worker ends.
    slot: Arc<Slot>,
    /// Where the rings can be served by the kernel.
    kernel: Option<Kernel>,
    /// Only where a rate is limited.
    timer: Option<TimerFd>,
    /// When the timer will fire.
    due: Option<Instant>,
    shared: Arc<Shared>,
}

/// A descriptor, for those who want to know it as a number.
pub(super) struct Watched(pub(super) RawFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl PairWorker {
    pub(super) fn new(
        receiver: Receiver,
        sender: Sender,
        control: Option<Control>,
        endpoint: Box<dyn Endpoint>,
        kernel: Option<Kernel>,
        slot: Arc<Slot>,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let timer = if shared.is_limited() {
            let made = TimerFd::new().map_err(|error| Error::Io {
                action: "make the timer of a rate limit",
                source: error.into(),
            })?;
            Some(made)
        } else {
            None
        };
        Ok(Self {
            receiver,
            sender,
            control,
            endpoint: Some(endpoint),
            slot,
            kernel,
            timer,
            due: None,
            shared,
        })
    }

    /// Lets those serve the rings who have to.
    fn settle(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let may = self.shared.turns.is_allowed() && self.shared.config.is_link_up();
        let (Some(kernel), Some(endpoint)) = (&mut self.kernel, &self.endpoint) else {
            return Ok(());
        };
        if !kernel.should_change(may) {
            Ok(())
        } else if kernel.serves() {
            kernel.take_back(endpoint.fd(), context)
        } else {
            if let Some(queue) = context.queues.get_mut(RX) {
                self.receiver.drain(queue);
            }
            kernel.hand_over(endpoint.fd(), context)
        }
    }

    fn serve(&mut self, direction: usize, context: &mut Context<'_>) -> Result<(), Error> {
        if self.kernel.as_ref().is_some_and(Kernel::serves) {
            return Ok(());
        }
        let Some((queue, endpoint)) = context
            .queues
            .get_mut(direction)
            .zip(self.endpoint.as_mut())
        else {
            return Ok(());
        };
        let served = if direction == RX {
            let receiver = &mut self.receiver;
            self.shared.rx.batch(queue, |queue, tally| {
                receiver.serve(queue, endpoint.as_mut(), tally)
            })
        } else {
            let sender = &mut self.sender;
            self.shared.tx.batch(queue, |queue, tally| {
                sender.serve(queue, endpoint.as_mut(), tally)
            })
        }?;
        match served {
            Served::More => queue.kick(),
            Served::Waiting => Ok(()),
            Served::Throttled(wait) => self.wait(wait),
        }
    }

    fn wait(&mut self, wait: Duration) -> Result<(), Error> {
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        let due = Instant::now() + wait;
        // The other direction may have less to wait for. Both look again when the timer fires.
        if self.due.is_some_and(|other| other <= due) {
            return Ok(());
        }
        self.due = Some(due);
        timer.reset(wait, None).map_err(|error| Error::Io {
            action: "set the timer of a rate limit",
            source: error.into(),
        })
    }
}

impl Worker for PairWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if let Some(endpoint) = &self.endpoint {
            watch_endpoint(endpoint.fd(), context)?;
        }
        if let Some(kernel) = &self.kernel {
            context.watch(kernel.turn(), EventSet::IN, TURN)?;
            context.watch(kernel.error_fd(), EventSet::IN, CONFUSED)?;
        }
        match &self.timer {
            Some(timer) => context.watch(timer, EventSet::IN, TIMER),
            None => Ok(()),
        }
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        match (queue, &mut self.control) {
            (RX | TX, _) => {
                // Not before the first kick, which comes when the machine runs.
                self.settle(context)?;
                self.serve(queue, context)
            }
            (CONTROL, Some(control)) => match context.queues.get_mut(CONTROL) {
                Some(queue) => control.serve(queue),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn ready(
        &mut self,
        token: u32,
        events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        if let (TURN | CONFUSED, Some(kernel)) = (token, &mut self.kernel) {
            if token == TURN {
                let _ = kernel.turn().read();
            } else {
                kernel.refuse();
            }
            self.settle(context)?;
            self.serve(RX, context)?;
            return self.serve(TX, context);
        }
        if token == TIMER
            && let Some(timer) = &mut self.timer
        {
            // Level-triggered: reading it ends the event.
            let _ = timer.wait();
            self.due = None;
        }
        if events.contains(EventSet::OUT)
            && let Some(endpoint) = &mut self.endpoint
            && let Err(error) = endpoint.flush()
            && error.kind() != ErrorKind::WouldBlock
        {
            log::debug!("sending the rest of a frame: {error}");
        }
        // After a throttled moment, both directions may have waited.
        if token == TIMER || events.intersects(!EventSet::OUT) {
            self.serve(RX, context)?;
        }
        if token == TIMER || self.sender.is_blocked() {
            self.serve(TX, context)?;
        }
        Ok(())
    }

    fn drain(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if let (Some(kernel), Some(endpoint)) = (&mut self.kernel, &self.endpoint)
            && kernel.serves()
        {
            kernel.take_back(endpoint.fd(), context)?;
        }
        if let Some(queue) = context.queues.get_mut(RX) {
            self.receiver.drain(queue);
        }
        Ok(())
    }
}

impl Drop for PairWorker {
    fn drop(&mut self) {
        let vhost = self.kernel.take().map(Kernel::into_vhost);
        let host = self
            .endpoint
            .take()
            .map(|endpoint| HostEnd { endpoint, vhost });
        self.slot.put(host);
    }
}
