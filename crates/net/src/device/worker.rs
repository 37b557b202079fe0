//! The thread of one queue pair.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use strata_virtio::{Context, Error, EventSet, Worker};
use vmm_sys_util::timerfd::TimerFd;

use super::control::Control;
use super::rx::Receiver;
use super::tx::Sender;
use super::{Shared, Slot};
use crate::Endpoint;

/// Positions in the worker's queues.
const RX: usize = 0;
const TX: usize = 1;
/// The control queue, which the first pair's worker serves.
const CONTROL: usize = 2;

/// Tokens of the files that are watched.
const ENDPOINT: u32 = 0;
const TIMER: u32 = 1;

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
    /// Where the endpoint goes when the worker ends.
    slot: Arc<Slot>,
    /// Only where a rate is limited.
    timer: Option<TimerFd>,
    shared: Arc<Shared>,
}

/// A descriptor, for those who want to know it as a number.
struct Watched(RawFd);

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
            timer,
            shared,
        })
    }

    fn serve(&mut self, direction: usize, context: &mut Context<'_>) -> Result<(), Error> {
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
        timer.reset(wait, None).map_err(|error| Error::Io {
            action: "set the timer of a rate limit",
            source: error.into(),
        })
    }
}

impl Worker for PairWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if let Some(endpoint) = &self.endpoint {
            // Edge-triggered: frames that nobody has buffers for do not wake the thread again and
            // again, and nothing has to be changed when buffers come and go.
            let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
            context.watch(&Watched(endpoint.fd()), events, ENDPOINT)?;
        }
        match &self.timer {
            Some(timer) => context.watch(timer, EventSet::IN, TIMER),
            None => Ok(()),
        }
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        match (queue, &mut self.control) {
            (RX | TX, _) => self.serve(queue, context),
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
        if token == TIMER
            && let Some(timer) = &mut self.timer
        {
            // Level-triggered: reading it ends the event.
            let _ = timer.wait();
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
        if let Some(queue) = context.queues.get_mut(RX) {
            self.receiver.drain(queue);
        }
        Ok(())
    }
}

impl Drop for PairWorker {
    fn drop(&mut self) {
        self.slot.put(self.endpoint.take());
    }
}
