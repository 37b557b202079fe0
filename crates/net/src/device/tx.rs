//! From the guest to the host.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strata_virtio::{Chain, Error, Queue};

use super::Shared;
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

    pub(super) fn serve(
        &mut self,
        queue: &mut Queue,
        endpoint: &mut dyn Endpoint,
    ) -> Result<Served, Error> {
        let (mut frames, mut bytes, mut dropped) = (0, 0, 0);
        let served = self.frames(queue, endpoint, &mut |len| match len {
            Some(len) => {
                frames += 1;
                bytes += len;
            }
            None => dropped += 1,
        });
        let counters = &self.shared.counters;
        counters.tx_frames.fetch_add(frames, Ordering::Relaxed);
        counters.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.tx_dropped.fetch_add(dropped, Ordering::Relaxed);
        let served = served?;
        // One interrupt for all of them.
        queue.notify()?;
        Ok(served)
    }

    /// Sends up to a budget of frames; tells `count` the bytes of each, or that it was dropped.
    fn frames(
        &mut self,
        queue: &mut Queue,
        endpoint: &mut dyn Endpoint,
        count: &mut dyn FnMut(Option<u64>),
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
            let sent = if self.shared.config.is_link_up() {
                endpoint.send(self.chain.readable.iovecs())
            } else {
                Err(io::ErrorKind::NetworkDown.into())
            };
            match sent {
                Ok(()) => {
                    let payload = len - HEADER_LEN as u64;
                    if let Some(limiter) = &self.shared.tx_limit {
                        limiter.take(payload as usize);
                    }
                    count(Some(payload));
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
                    count(None);
                }
            }
            queue.push(self.chain.head(), 0)?;
        }
        Ok(Served::More)
    }
}
