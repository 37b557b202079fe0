//! Who takes pages back and asks for statistics.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use strata_memory::GuestRam;
use strata_virtio::{Chain, Context, Error, EventSet, Queue, Worker};
use vm_memory::GuestAddress;

use crate::handle::Shared;
use crate::stats::Stats;
use crate::{MAX_PAGES, PAGE};

/// Requests that are served before other events have their turn.
const BATCH: usize = 8;
/// Page numbers that are read at once.
const CHUNK: usize = 256;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Inflate,
    Deflate,
    Stats,
    Reporting,
    /// A queue of a feature that was not negotiated.
    None,
}

pub(crate) struct BalloonWorker {
    ram: Arc<GuestRam>,
    shared: Arc<Shared>,
    /// What each queue is for, in the order of the context's queues.
    roles: Vec<Role>,
    chain: Chain,
    /// The statistics buffer, which the driver leaves here until it is asked.
    held: Option<u16>,
}

impl BalloonWorker {
    pub(crate) fn new(ram: Arc<GuestRam>, shared: Arc<Shared>, roles: Vec<Role>) -> Self {
        Self {
            ram,
            shared,
            roles,
            chain: Chain::new(),
            held: None,
        }
    }

    /// Gives the host what it can have of a range of guest memory.
    fn discard(&self, addr: u64, len: u64) -> Result<(), Error> {
        match self.ram.discard(GuestAddress(addr), len) {
            Ok(bytes) => {
                self.shared.discarded.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(strata_memory::Error::OutsideRam { .. }) => {
                Err(Error::Driver("it gives pages that it does not have"))
            }
            // The guest has done its part: the pages stay with it, and nothing is lost.
            Err(_) => {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Discards the pages whose numbers the driver lists (5.5.6.1), neighbours at once.
    fn inflate(&mut self, queue: &Queue) -> Result<(), Error> {
        if self.chain.readable.len() > MAX_PAGES * 4 {
            return Err(Error::Driver("it gives too many pages at once"));
        }
        let mut run = 0..0_u64;
        let mut bytes = [0; CHUNK * 4];
        loop {
            let count = self.chain.readable.read(queue.memory(), &mut bytes);
            let count = count.map_err(|source| queue.error(source))?;
            if count == 0 {
                break;
            }
            for number in bytes[..count].as_chunks().0 {
                let page = u64::from(u32::from_le_bytes(*number));
                if page == run.end {
                    run.end += 1;
                } else if page + 1 == run.start {
                    run.start = page;
                } else {
                    self.discard_run(&run)?;
                    run = page..page + 1;
                }
            }
        }
        self.discard_run(&run)
    }

    fn discard_run(&self, run: &std::ops::Range<u64>) -> Result<(), Error> {
        if run.is_empty() {
            return Ok(());
        }
        self.discard(run.start * PAGE, (run.end - run.start) * PAGE)
    }

    /// Discards the pages that the driver reports as free (5.5.6.7): buffers to write.
    fn report(&self) -> Result<(), Error> {
        let mut parts = self.chain.writable.parts();
        parts.try_for_each(|(addr, len)| self.discard(addr.0, len as u64))
    }

    fn take_stats(&mut self, queue: &mut Queue) -> Result<(), Error> {
        let mut bytes = [0; Stats::ENTRY * Stats::ENTRIES];
        let count = self.chain.readable.read(queue.memory(), &mut bytes);
        let count = count.map_err(|source| queue.error(source))?;
        // A second buffer is not foreseen; the first goes back then.
        if let Some(head) = self.held.replace(self.chain.head()) {
            queue.push(head, 0)?;
        }
        let stats = &self.shared.stats;
        let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
        *stats = (stats.0.wrapping_add(1), Stats::parse(&bytes[..count]));
        Ok(())
    }

    fn serve(&mut self, role: Role, queue: &mut Queue) -> Result<(), Error> {
        match role {
            Role::Inflate => self.inflate(queue)?,
            Role::Reporting => self.report()?,
            Role::Stats => return self.take_stats(queue),
            // Pages come back by being touched.
            Role::Deflate | Role::None => {}
        }
        queue.push(self.chain.head(), 0)
    }

    fn stats_queue<'a>(&self, context: &'a mut Context<'_>) -> Option<&'a mut Queue> {
        let position = self.roles.iter().position(|role| *role == Role::Stats)?;
        context.queues.get_mut(position)
    }
}

impl Worker for BalloonWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        context.watch(&self.shared.ask, EventSet::IN, 0)
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let role = self.roles[queue];
        let queue = &mut context.queues[queue];
        for _ in 0..BATCH {
            if !queue.pop(&mut self.chain)? {
                if !queue.enable_kicks()? {
                    return queue.notify();
                }
                continue;
            }
            self.serve(role, queue)?;
        }
        queue.notify()?;
        queue.kick()
    }

    /// Somebody wants statistics: the driver fills its buffer anew when it has it back (5.5.6.3).
    fn ready(
        &mut self,
        _token: u32,
        _events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let _ = self.shared.ask.read();
        let held = self.held.take();
        if let (Some(head), Some(queue)) = (held, self.stats_queue(context)) {
            queue.push(head, 0)?;
            queue.notify()?;
        }
        Ok(())
    }

    /// The statistics buffer is put back, to be taken again: the next worker does not know of it.
    fn drain(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if let (Some(_), Some(queue)) = (self.held.take(), self.stats_queue(context)) {
            queue.unpop();
        }
        Ok(())
    }
}
