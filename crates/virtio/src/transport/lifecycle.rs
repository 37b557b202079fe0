//! From the driver's first status bit to a reset: the device, its workers and its ioeventfds.
//!
//! ```text
//!            status 0x8 accepted      DRIVER_OK               write 0
//!   reset ──────────────────► set up ──────────► active ────────────────► resetting ──► reset
//!                                                 │  ▲                   (workers drain)
//!                                           pause │  │ resume
//!                                                 ▼  │
//!                                                paused
//! ```
//!
//! A reset does not wait for workers that drain: the status reads as before until they are gone, and
//! then 0 (virtio 1.2, 2.4.1: the driver waits for that).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use strata_memory::GuestMemory;
use vmm_sys_util::eventfd::EventFd;

use super::EventBinder;
use super::common::{DRIVER_OK, FEATURES_OK, Registers};
use super::layout::NOTIFY_MULTIPLIER;
use crate::device::{Activation, Device};
use crate::error::Error;
use crate::features;
use crate::interrupt::{QueueInterrupt, Signals};
use crate::queue::{Queue, RingFeatures};
use crate::worker::{Start, Thread};

pub(super) struct Lifecycle {
    pub(super) device: Box<dyn Device>,
    pub(super) registers: Registers,
    pub(super) signals: Arc<Signals>,
    memory: GuestMemory,
    kicks: Arc<[Arc<EventFd>]>,
    binder: Arc<dyn EventBinder>,
    threads: Vec<Thread>,
    /// Whether the device was activated since its last reset.
    activated: bool,
    resetting: bool,
    /// Guest-physical address of the first queue's notify register, where the BAR is decoded.
    notify: Option<u64>,
    /// What is bound to ioeventfds: addresses, by queue.
    bound: Vec<(usize, u64)>,
}

impl Lifecycle {
    pub(super) fn new(
        device: Box<dyn Device>,
        registers: Registers,
        signals: Arc<Signals>,
        memory: GuestMemory,
        kicks: Arc<[Arc<EventFd>]>,
        binder: Arc<dyn EventBinder>,
    ) -> Self {
        Self {
            device,
            registers,
            signals,
            memory,
            kicks,
            binder,
            threads: Vec::new(),
            activated: false,
            resetting: false,
            notify: None,
            bound: Vec::new(),
        }
    }

    /// To be called before the status is read: ends a reset that waits for its workers.
    pub(super) fn poll_reset(&mut self) {
        if self.resetting && self.threads.iter().all(Thread::has_ended) {
            self.finish_reset();
        }
    }

    /// The driver writes the status register (virtio 1.2, 3.1.1).
    pub(super) fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.begin_reset();
        }
        if self.resetting {
            return;
        }
        let before = self.registers.status;
        if before == 0 {
            self.signals.driver_begins();
        }
        // A driver never clears a bit but by a reset (2.1.1).
        let mut status = before | value & !super::common::NEEDS_RESET;
        if status & !before & FEATURES_OK != 0 && !self.registers.features_fit() {
            status &= !FEATURES_OK;
        }
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        self.registers.status = status;
        if status & !before & DRIVER_OK != 0 {
            self.activate();
        }
    }

    /// Drains all workers, has them ended, and waits for that only if there are none.
    pub(super) fn begin_reset(&mut self) {
        self.unbind();
        self.signals.driver_ok.store(false, Ordering::SeqCst);
        for thread in &self.threads {
            thread.stop();
        }
        self.resetting = true;
        self.poll_reset();
    }

    fn finish_reset(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join();
        }
        if std::mem::take(&mut self.activated) {
            self.device.reset();
        }
        self.signals.reset();
        self.registers.reset();
        for kick in self.kicks.iter() {
            // Nothing is left of the kicks before the reset; an error says that there was none.
            let _ = kick.read();
        }
        self.resetting = false;
    }

    /// Hands the queues to the device's workers. Whatever fails breaks the device: workers that
    /// there are already wait, drained, for its reset.
    fn activate(&mut self) {
        self.signals.driver_is_ok();
        if self.signals.needs_reset.load(Ordering::SeqCst) {
            return;
        }
        self.activated = true;
        if let Err(error) = self.try_activate(Start::Running) {
            for thread in &self.threads {
                thread.give_up();
            }
            self.signals.break_device(self.device.name(), &error);
            return;
        }
        self.bind();
    }

    /// Makes the workers of a device that was active when it was saved.
    pub(super) fn restored(&mut self) -> Result<(), Error> {
        if self.registers.status & DRIVER_OK == 0 {
            return Ok(());
        }
        self.signals.driver_ok.store(true, Ordering::SeqCst);
        if self.signals.needs_reset.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.activated = true;
        self.try_activate(Start::Parked)?;
        self.bind();
        Ok(())
    }

    fn try_activate(&mut self, start: Start) -> Result<(), Error> {
        let features = self.registers.accepted;
        let activation = Activation {
            features,
            memory: self.memory.clone(),
            queues: self.queues(features)?,
        };
        let assignments = self.device.activate(activation)?;
        for (assignment, index) in assignments.into_iter().zip(0..) {
            // A thread's name has 15 bytes.
            let name: String = self.device.name().chars().take(11).collect();
            let name = format!("{name}.{index}");
            let signals = Arc::clone(&self.signals);
            let thread = Thread::spawn(name, assignment, signals, start)?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn queues(&self, features: u64) -> Result<Vec<Queue>, Error> {
        let ring = RingFeatures {
            event_idx: features & features::RING_EVENT_IDX != 0,
            indirect: features & features::RING_INDIRECT_DESC != 0,
        };
        let queues = self.registers.queues.iter().zip(self.kicks.iter()).zip(0..);
        queues
            .filter(|((queue, _), _)| queue.state.enabled)
            .map(|((queue, kick), index)| {
                Queue::new(
                    index,
                    queue.max_size,
                    &queue.state,
                    ring,
                    self.memory.clone(),
                    Arc::clone(kick),
                    QueueInterrupt::new(Arc::clone(&self.signals), index),
                )
            })
            .collect()
    }

    /// Takes note of where the notify registers are, or that they are nowhere.
    pub(super) fn moved(&mut self, notify: Option<u64>) {
        if self.notify == notify {
            return;
        }
        self.unbind();
        self.notify = notify;
        self.bind();
    }

    /// Binds the kicks of a device that is active. One whose workers drain for a reset is not, wherever
    /// its driver puts the BAR meanwhile.
    fn bind(&mut self) {
        let active = !self.threads.is_empty() && !self.resetting;
        let Some(base) = self.notify.filter(|_| active) else {
            return;
        };
        let queues = self.registers.queues.iter().zip(self.kicks.iter());
        for (index, (queue, kick)) in queues.enumerate() {
            if !queue.state.enabled {
                continue;
            }
            let address = base + index as u64 * NOTIFY_MULTIPLIER;
            match self.binder.bind(address, kick) {
                Ok(()) => self.bound.push((index, address)),
                // The guest may have put the BAR upon another's. Its kicks exit, and arrive.
                Err(error) => log::debug!(
                    "{}: no ioeventfd at {address:#x}: {error}",
                    self.device.name()
                ),
            }
        }
    }

    fn unbind(&mut self) {
        for (index, address) in self.bound.drain(..) {
            if let Err(error) = self.binder.unbind(address, &self.kicks[index]) {
                log::warn!(
                    "{}: an ioeventfd stays at {address:#x}: {error}",
                    self.device.name()
                );
            }
        }
    }

    /// Drains and parks all workers, and takes note of how far their queues are served.
    pub(super) fn pause(&mut self) -> Result<(), Error> {
        // Workers that end answer no more. What they drain they would drain for the pause as well.
        if self.resetting {
            self.finish_reset();
        }
        // All are asked before the first is waited for, whatever becomes of one.
        let answers: Vec<_> = self.threads.iter().map(Thread::pause).collect();
        let mut paused = Ok(());
        for answer in answers {
            let states = answer.and_then(|answer| answer.recv().map_err(|_| Error::WorkerGone));
            let states = states.unwrap_or_else(|error| {
                paused = Err(error);
                Vec::new()
            });
            for (index, state) in states {
                if let Some(queue) = self.registers.queues.get_mut(usize::from(index)) {
                    queue.state = state;
                }
            }
        }
        paused
    }

    pub(super) fn resume(&self) -> Result<(), Error> {
        let resumed = self.threads.iter().map(Thread::resume);
        resumed.fold(Ok(()), Result::and)
    }

    /// Drains the workers, and waits until they are gone.
    pub(super) fn stop(&mut self) {
        self.begin_reset();
        if self.resetting {
            self.finish_reset();
        }
    }
}
