//! A device whose requests take until they are let go: what is in flight when a reset or a pause
//! comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use strata_virtio::{
    Activation, Assignment, Chain, ConfigInterrupt, Context, Device, DeviceType, Error, EventSet,
    Worker,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What a test sees of the device.
#[derive(Debug)]
pub(crate) struct Probe {
    /// Ends the requests in flight.
    pub(crate) finish: EventFd,
    /// A drain waits until this is set.
    pub(crate) may_drain: AtomicBool,
    pub(crate) in_flight: AtomicU32,
    pub(crate) drains: AtomicU32,
    pub(crate) resumes: AtomicU32,
    pub(crate) workers: AtomicU32,
    /// A bit for each queue that was looked at.
    pub(crate) seen: AtomicU32,
    pub(crate) resets: AtomicU32,
    /// What the worker does wrong at the next kick.
    pub(crate) fail: AtomicBool,
    /// What configuration space shows.
    pub(crate) config: AtomicU64,
    pub(crate) change: std::sync::OnceLock<ConfigInterrupt>,
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            finish: EventFd::new(EFD_NONBLOCK).unwrap(),
            may_drain: AtomicBool::new(true),
            in_flight: AtomicU32::new(0),
            drains: AtomicU32::new(0),
            resumes: AtomicU32::new(0),
            workers: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            resets: AtomicU32::new(0),
            fail: AtomicBool::new(false),
            config: AtomicU64::new(0),
            change: std::sync::OnceLock::new(),
        })
    }
}

pub(crate) fn count(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

pub(crate) struct Slow(pub(crate) Arc<Probe>);

impl Device for Slow {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn name(&self) -> &str {
        "a-slow-device-with-a-long-name"
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64, 64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.0.config.load(Ordering::SeqCst).to_le_bytes();
        let at = offset as usize % bytes.len();
        data.copy_from_slice(&bytes[at..at + data.len()]);
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        self.0.change.set(change).unwrap();
    }

    /// A worker for each queue.
    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        let queues = activation.queues.into_iter();
        let assignments = queues.map(|queue| {
            self.0.workers.fetch_add(1, Ordering::SeqCst);
            Assignment {
                queues: vec![queue],
                worker: Box::new(SlowWorker {
                    probe: Arc::clone(&self.0),
                    finish: self.0.finish.try_clone().unwrap(),
                    chain: Chain::new(),
                    heads: Vec::new(),
                }),
            }
        });
        Ok(assignments.collect())
    }

    fn reset(&mut self) {
        assert_eq!(count(&self.0.workers), 0, "a worker is still there");
        self.0.resets.fetch_add(1, Ordering::SeqCst);
    }
}

struct SlowWorker {
    probe: Arc<Probe>,
    finish: EventFd,
    chain: Chain,
    heads: Vec<u16>,
}

impl SlowWorker {
    fn finish(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &mut context.queues[0];
        for head in self.heads.drain(..) {
            queue.push(head, 0)?;
            self.probe.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        queue.notify()
    }
}

impl Worker for SlowWorker {
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        context.watch(&self.finish, EventSet::IN, 7)
    }

    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let bit = 1 << context.queues[queue].index();
        self.probe.seen.fetch_or(bit, Ordering::SeqCst);
        if self.probe.fail.swap(false, Ordering::SeqCst) {
            return Err(Error::Driver("it is told to fail"));
        }
        while context.queues[queue].pop(&mut self.chain)? {
            self.heads.push(self.chain.head());
            self.probe.in_flight.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn ready(
        &mut self,
        token: u32,
        events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        assert_eq!((token, events), (7, EventSet::IN));
        self.finish(context)?;
        context.rewatch(&self.finish, EventSet::empty(), 7)
    }

    fn drain(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        while !self.probe.may_drain.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.probe.drains.fetch_add(1, Ordering::SeqCst);
        self.finish(context)
    }

    fn resume(&mut self, _context: &mut Context<'_>) -> Result<(), Error> {
        self.probe.resumes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for SlowWorker {
    fn drop(&mut self) {
        self.probe.workers.fetch_sub(1, Ordering::SeqCst);
    }
}
