//! The thread of a queue, and what it keeps from call to call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strata_memory::GuestMemory;
use strata_qcow2::Ticket;
use strata_virtio::{Context, Error, Queue, Worker as VirtioWorker};
use vm_memory::GuestAddress;
use vmm_sys_util::timerfd::TimerFd;

use super::device::Shared;
use super::request::Request;
use super::server::Server;
use crate::disk::Plan;
use crate::options::Cache;
use crate::slow::{Done, Mailbox, Range, lock};
use crate::sys::{Ring, SlotId};

/// Tokens of the files that a worker's ring watches.
pub(super) const KICK: u32 = 0;
pub(super) const MAILBOX: u32 = 1;
pub(super) const TIMER: u32 = 2;
pub(super) const OWNER: u32 = 3;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its own operation.
    Main,
    /// The flush after a write, for a driver that does not flush.
    Flush,
}

/// A request beside its chain, which is in the ring's slot of the same number.
pub(super) struct Entry {
    pub(super) head: u16,
    pub(super) request: Request,
    /// Bytes that it reads, writes, discards or zeroes.
    pub(super) bytes: u64,
    /// What it discards or zeroes, as it was when the request was taken up.
    pub(super) ranges: Vec<Range>,
    pub(super) stage: Stage,
    pub(super) status: GuestAddress,
    pub(super) ticket: Option<Ticket>,
}

impl Entry {
    fn unused() -> Self {
        Self {
            head: 0,
            request: Request::Flush,
            bytes: 0,
            ranges: Vec::new(),
            stage: Stage::Main,
            status: GuestAddress(0),
            ticket: None,
        }
    }
}

/// What exists once the worker has its thread and its queue's memory.
pub(super) struct Running {
    pub(super) ring: Ring,
    pub(super) memory: GuestMemory,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) timer: TimerFd,
    /// Made when they are first needed, as the ring's slots are.
    pub(super) entries: Vec<Entry>,
    pub(super) free: Vec<SlotId>,
    pub(super) plan: Plan,
    /// Jobs in the slow path.
    pub(super) slow: usize,
    pub(super) done: Vec<Done>,
    /// The request that the rate limit holds back; no other is taken up before it.
    pub(super) throttled: Option<SlotId>,
    pub(super) parked: Vec<SlotId>,
    /// The owner wants the worker back in its loop.
    pub(super) called: bool,
    /// Completions since the driver was last notified.
    pub(super) unnotified: bool,
}

/// Serves one queue.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// The driver flushes.
    flushes: bool,
    running: Option<Running>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, flushes: bool) -> Self {
        Self {
            shared,
            flushes,
            running: None,
        }
    }

    /// Runs `serve` on the queue, if the worker has been started.
    fn with(
        &mut self,
        context: &mut Context<'_>,
        serve: impl FnOnce(&mut Server<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let owner = context.owner();
        let (Some(running), Some(queue)) = (&mut self.running, context.queues.first_mut()) else {
            return Ok(());
        };
        serve(&mut Server {
            shared: &self.shared,
            flushes: self.flushes,
            running,
            queue,
            owner,
        })
    }
}

pub(super) fn broken(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { action, source }
}

impl Running {
    fn new(shared: &Shared, queue: &Queue) -> Result<Self, Error> {
        let memory = queue.memory().clone();
        let slots = queue.size();
        let disk = &shared.disk;
        let direct = disk.cache() == Cache::Direct;
        let ring = Ring::new(&memory, &disk.descriptors(), direct, slots)
            .map_err(|error| Error::Device(error.into()))?;
        Ok(Self {
            ring,
            mailbox: Mailbox::new(memory.clone()).map_err(broken("make an eventfd"))?,
            memory,
            timer: TimerFd::new().map_err(|e| broken("make a timer")(e.into()))?,
            entries: Vec::with_capacity(slots.into()),
            free: (0..slots).rev().collect(),
            plan: Plan::new(),
            slow: 0,
            done: Vec::new(),
            throttled: None,
            parked: Vec::new(),
            called: false,
            unnotified: false,
        })
    }

    /// A free slot and its entry; the lowest are taken first.
    pub(super) fn take_slot(&mut self) -> Option<SlotId> {
        let slot = self.free.pop()?;
        let index = usize::from(slot);
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, Entry::unused);
        }
        Some(slot)
    }
}

impl VirtioWorker for Worker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(queue) = context.queues.first() else {
            return Ok(());
        };
        let mut running = Running::new(&self.shared, queue)?;
        let ring = &mut running.ring;
        ring.watch(queue.kick_fd(), KICK);
        ring.watch(running.mailbox.event(), MAILBOX);
        ring.watch(&running.timer, TIMER);
        ring.watch(context.owner(), OWNER);
        // The worker waits in the ring, which costs one system call for what is done and what is
        // new together. It is in the loop only when its owner has called.
        lock(&self.shared.mailboxes).push(Arc::clone(&running.mailbox));
        self.running = Some(running);
        Ok(())
    }

    fn kicked(&mut self, _queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        self.with(context, |server| server.serve())
    }

    fn drain(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        self.with(context, |server| server.drain())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            let parked = running.parked.len();
            self.shared.parked.fetch_sub(parked, Ordering::AcqRel);
        }
    }
}
