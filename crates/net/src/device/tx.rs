//! From the guest to the host.

use std::io;
use std::sync::Arc;

use strata_virtio::{Chain, Error, Queue};

use super::Shared;
use super::flow::Tally;
use super::worker::Served;
use crate::{Endpoint, HEADER_LEN};

/// Frames that one call sends, so that receiving, and a pause, have their turn.
const BUDGET: usize = 64;

/// Sends frames right from the driver's buffers.
pub(super) struct Sender {
    shared: Arc<Shared>,
    chain: Chain,
    /// Whether a frame waits for the endpoint to have room.
    blocked: bool,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            chain: Chain::new(),
            blocked: false,
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Sends up to a budget of frames.
    pub(super) fn serve(
        &mut self,
        queue: &mut Queue,
        endpoint: &mut dyn Endpoint,
        tally: &mut Tally,
    ) -> Result<Served, Error> {
        self.blocked = false;
        queue.disable_kicks()?;
        for _ in 0..BUDGET {
            if let Some(limiter) = &self.shared.tx_limit
                && let Some(wait) = limiter.wait()
            {
                return Ok(Served::Throttled(wait));
            }
            while !queue.pop(&mut self.chain)? {
                if !queue.enable_kicks()? {
                    return Ok(Served::Waiting);
                }
                queue.disable_kicks()?;
            }
            let len = self.chain.readable.len();
            if len < HEADER_LEN as u64 {
                return Err(Error::Driver("a frame without a header"));
            }
            if !self.shared.config.is_link_up() {
                tally.drop_one();
                queue.push(self.chain.head(), 0)?;
                continue;
            }
            match endpoint.send(self.chain.readable.iovecs()) {
                Ok(()) => {
                    let payload = len - HEADER_LEN as u64;
                    if let Some(limiter) = &self.shared.tx_limit {
                        limiter.take(payload as usize);
                    }
                    tally.pass(payload);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.unpop();
                    self.blocked = true;
                    return Ok(Served::Waiting);
                }
                // The host refuses the frame (a header that makes no sense), or can not take it: a
                // network may lose frames.
                Err(error) => {
                    log::debug!("sending a frame: {error}");
                    tally.fail();
                }
            }
            queue.push(self.chain.head(), 0)?;
        }
        Ok(Served::More)
    }
}
