//! From the host to the guest.

use std::io;
use std::sync::Arc;

use strata_virtio::{Chain, Error, Queue};

use super::Shared;
use super::flow::Tally;
use super::waiting::Waiting;
use super::worker::Served;
use crate::sys::ReceiveList;
use crate::{Endpoint, HEADER_LEN};

/// Frames that one call receives, so that sending, and a pause, have their turn.
const BUDGET: usize = 64;
/// Pieces that one buffer of the driver's may have, and that are gathered at most. Together they are
/// fewer than readv(2) takes.
const MAX_PIECES_OF_BUFFER: usize = 256;
const MAX_PIECES: usize = 512;
/// The largest frame with its header, and some.
const MAX_FRAME: usize = crate::sys::OVERFLOW;
/// Where `num_buffers` is in the header (virtio 1.2 §5.1.6).
const NUM_BUFFERS: u64 = 10;

/// Receives frames right into the driver's buffers.
///
/// How large the next frame is is not known before it is read. So buffers for the largest one are
/// popped in advance, and those that a frame did not need serve the next.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    /// Whether a frame may lie in several buffers.
    mergeable: bool,
    /// Bytes of the largest frame that is expected, with its header; or one, where a frame may not
    /// lie in several buffers.
    wanted: u64,
    /// Buffers in the list, and their bytes together.
    waiting: Waiting<Chain>,
    capacity: u64,
    /// Bytes of a frame that was received and fills more buffers than there were: it waits for the
    /// driver to make more available, as frames behind it do.
    unplaced: Option<usize>,
    list: ReceiveList,
    used: Vec<(u16, u32)>,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, mergeable: bool, wanted: usize) -> Self {
        Self {
            shared,
            mergeable,
            wanted: if mergeable { wanted as u64 } else { 1 },
            waiting: Waiting::default(),
            capacity: 0,
            unplaced: None,
            list: ReceiveList::new(),
            used: Vec::new(),
        }
    }

    /// Receives up to a budget of frames.
    pub(super) fn serve(
        &mut self,
        queue: &mut Queue,
        endpoint: &mut dyn Endpoint,
        tally: &mut Tally,
    ) -> Result<Served, Error> {
        let shared = Arc::clone(&self.shared);
        for _ in 0..BUDGET {
            if let Some(limiter) = &shared.rx_limit
                && let Some(wait) = limiter.wait()
            {
                return Ok(Served::Throttled(wait));
            }
            if !self.gather(queue)? {
                return Ok(Served::Waiting);
            }
            let received = match self.unplaced.take() {
                Some(len) => Ok(len),
                None => self.receive(endpoint),
            };
            let len = match received {
                Ok(len) => len,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        log::debug!("receiving a frame: {error}");
                        tally.fail();
                    }
                    return Ok(Served::Waiting);
                }
            };
            if len < HEADER_LEN {
                tally.fail();
                continue;
            }
            if !shared.config.is_link_up() {
                tally.drop_one();
                continue;
            }
            if len as u64 > self.capacity {
                if self.may_come_to_fit(len) {
                    self.unplaced = Some(len);
                } else {
                    tally.drop_one();
                }
                continue;
            }
            self.deliver(queue, len)?;
            let payload = len - HEADER_LEN;
            if let Some(limiter) = &shared.rx_limit {
                limiter.take(payload);
            }
            tally.pass(payload as u64);
        }
        Ok(Served::More)
    }

    /// Receives the next frame; what of it the buffers do not hold stays in the list.
    fn receive(&mut self, endpoint: &mut dyn Endpoint) -> io::Result<usize> {
        let len = endpoint.receive(&mut self.list)?;
        // Pieces that come later continue where these end.
        self.list
            .hold(usize::try_from(self.capacity).unwrap_or(usize::MAX), len);
        Ok(len)
    }

    /// Whether a frame of `len` bytes fits once the driver has made more buffers available.
    fn may_come_to_fit(&self, len: usize) -> bool {
        self.mergeable && len <= MAX_FRAME && self.list.pieces() < MAX_PIECES
    }

    /// Makes room for the largest frame, as far as the driver lets us. Says whether there is any,
    /// or enough for the frame that waits.
    fn gather(&mut self, queue: &mut Queue) -> Result<bool, Error> {
        let needed = self.unplaced.map_or(1, |len| len as u64);
        while self.capacity < self.wanted.max(needed) && self.list.pieces() < MAX_PIECES {
            let chain = self.waiting.spare();
            if !queue.pop(chain)? {
                if self.capacity >= needed {
                    break;
                }
                // Only for want of buffers the driver's kick is needed.
                if queue.enable_kicks()? {
                    continue;
                }
                return Ok(false);
            }
            check(chain)?;
            if self.capacity < needed {
                queue.disable_kicks()?;
            }
            self.capacity += chain.writable.len();
            self.list.append(chain.writable.iovecs());
            self.waiting.keep();
        }
        if self.unplaced.is_some() {
            self.list.place();
        }
        Ok(true)
    }

    /// Gives the driver the frame of `len` bytes that lies in the first buffers.
    fn deliver(&mut self, queue: &mut Queue, len: usize) -> Result<(), Error> {
        self.used.clear();
        let mut left = len as u64;
        let mut pieces = 0;
        for chain in self.waiting.iter() {
            let room = chain.writable.len();
            let part = left.min(room);
            chain.writable.mark_dirty(queue.memory(), part);
            pieces += chain.writable.iovecs().len();
            self.capacity -= room;
            // A chain is shorter than 4 GiB.
            self.used.push((chain.head(), part as u32));
            left -= part;
            if left == 0 {
                break;
            }
        }
        if let Some(first) = self.waiting.first() {
            let count = (self.used.len() as u16).to_le();
            let memory = queue.memory();
            first.writable.consume(NUM_BUFFERS);
            let written = first.writable.write_obj(memory, count);
            written.map_err(|error| queue.error(error))?;
        }
        self.waiting.release(self.used.len());
        self.list.consume(pieces);
        queue.push_all(&self.used)
    }

    /// Puts the buffers back that hold no frame. One that waited for more of them is lost, as it may
    /// be on a network: half of it lies in them.
    pub(super) fn drain(&mut self, queue: &mut Queue) {
        for _ in self.waiting.iter() {
            queue.unpop();
        }
        self.waiting.release(usize::MAX);
        self.capacity = 0;
        self.list.consume(usize::MAX);
        if self.unplaced.take().is_some() {
            let mut lost = Tally::default();
            lost.drop_one();
            self.shared.rx.add(lost);
        }
    }
}

fn check(chain: &Chain) -> Result<(), Error> {
    if !chain.readable.is_empty() {
        return Err(Error::Driver("a receive buffer that the device is to read"));
    }
    if chain.writable.len() < HEADER_LEN as u64 {
        return Err(Error::Driver("a receive buffer shorter than a header"));
    }
    if chain.writable.iovecs().len() > MAX_PIECES_OF_BUFFER {
        return Err(Error::Driver("a receive buffer in more than 256 pieces"));
    }
    Ok(())
}
