//! The device: what it is, how it is made, and its owner's side of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use strata_virtio::{
    Activation, Assignment, ConfigInterrupt, Device, DeviceType, Error as VirtioError,
};

use super::config::{self, Shape};
use super::worker::Worker;
use crate::disk::Disk;
use crate::error::Error;
use crate::limit::RateLimiter;
use crate::log_limit::LogLimit;
use crate::options::{ErrorPolicy, Limits};
use crate::slow::{Mailbox, Pool, lock};
use crate::stats::{Counters, Operation, Stats};

/// Bytes of the serial number (virtio 1.2, 5.2.6.1).
pub(crate) const SERIAL: usize = 20;

/// A request that the host could not fulfil.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was asked for.
    pub operation: Operation,
    /// What the device did about it. After [`ErrorPolicy::Stop`] the owner stops the guest, and
    /// calls [`BlockControl::retry`] when it goes on.
    pub policy: ErrorPolicy,
    /// The host's file system was full.
    pub no_space: bool,
    /// Why, in words. The log has them with the file's name.
    pub reason: String,
}

/// Hears of failures, on the thread of a queue: it must not block.
pub type FailureSink = Arc<dyn Fn(&Failure) + Send + Sync>;

/// How a disk is shown to the guest.
#[derive(Clone)]
pub struct BlockOptions {
    /// Short name for messages and threads.
    pub name: String,
    /// Serial number, at most 20 bytes; Linux shows it below /dev/disk/by-id.
    pub serial: String,
    /// Queues, each with a thread: 1 to 64.
    pub queues: u16,
    /// Entries of each queue: a power of two, 4 to 1024.
    pub queue_size: u16,
    /// Bytes of a logical block: a power of two, 512 to 4096, and at least what O_DIRECT asks for
    /// ([`Disk::alignment`]). None takes that.
    pub block_size: Option<u32>,
    /// Rate limits.
    pub limits: Limits,
    /// What happens when the host can not read.
    pub read_errors: ErrorPolicy,
    /// What happens when the host can not write, flush, discard or zero.
    pub write_errors: ErrorPolicy,
    /// Hears of failures.
    pub on_failure: Option<FailureSink>,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            name: "blk".into(),
            serial: String::new(),
            queues: 1,
            queue_size: 256,
            block_size: None,
            limits: Limits::default(),
            read_errors: ErrorPolicy::default(),
            write_errors: ErrorPolicy::default(),
            on_failure: None,
        }
    }
}

impl fmt::Debug for BlockOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockOptions")
            .field("name", &self.name)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// What the device, its workers and its owner share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<Disk>,
    /// Bytes of the disk that configuration space shows.
    pub(crate) shown_size: AtomicU64,
    /// Bytes of a logical block.
    pub(crate) block_size: u32,
    pub(crate) pool: Pool,
    pub(crate) limiter: RateLimiter,
    pub(crate) counters: Counters,
    pub(crate) serial: [u8; SERIAL],
    /// The driver wants writes to be durable only after a flush.
    pub(crate) writeback: AtomicBool,
    pub(crate) read_errors: ErrorPolicy,
    pub(crate) write_errors: ErrorPolicy,
    pub(crate) on_failure: Option<FailureSink>,
    /// For failures that are no file's: those are logged by the file.
    pub(crate) log: LogLimit,
    /// Requests that wait for the owner.
    pub(crate) parked: AtomicUsize,
    /// Those of the workers, which take the lock only when they start.
    pub(crate) mailboxes: Mutex<Vec<Arc<Mailbox>>>,
}

/// A virtio block device.
pub struct BlockDevice {
    name: String,
    queue_sizes: Vec<u16>,
    pub(super) shared: Arc<Shared>,
    change: Arc<OnceLock<ConfigInterrupt>>,
}

impl fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDevice")
            .field("name", &self.name)
            .field("disk", &self.shared.disk)
            .finish_non_exhaustive()
    }
}

fn invalid(options: &BlockOptions, what: fmt::Arguments<'_>) -> Error {
    Error::Invalid(format!("the disk device {}: {what}", options.name))
}

fn check(disk: &Disk, options: &BlockOptions) -> Result<u32, Error> {
    if !(1..=64).contains(&options.queues) {
        let queues = options.queues;
        return Err(invalid(
            options,
            format_args!("{queues} queues are not possible, take 1 to 64"),
        ));
    }
    let size = options.queue_size;
    if !size.is_power_of_two() || !(4..=1024).contains(&size) {
        return Err(invalid(
            options,
            format_args!(
                "a queue of {size} entries is not possible, take a power of two from 4 to 1024"
            ),
        ));
    }
    if options.serial.len() > SERIAL {
        let serial = &options.serial;
        return Err(invalid(
            options,
            format_args!("the serial number {serial:?} has more than 20 bytes"),
        ));
    }
    let least = disk.alignment() as u32;
    let block = options.block_size.unwrap_or(least);
    if !block.is_power_of_two() || block > 4096 || block < least {
        return Err(invalid(
            options,
            format_args!(
                "blocks of {block} bytes are not possible, take a power of two from {least} to 4096"
            ),
        ));
    }
    if !disk.size().is_multiple_of(block.into()) {
        let bytes = disk.size();
        return Err(invalid(
            options,
            format_args!(
                "the disk's {bytes} bytes are no whole number of blocks of {block}: resize it"
            ),
        ));
    }
    Ok(block)
}

impl BlockDevice {
    /// A device that shows `disk`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that can not be.
    pub fn new(disk: Arc<Disk>, options: BlockOptions) -> Result<Self, Error> {
        let block_size = check(&disk, &options)?;
        let mut serial = [0; SERIAL];
        serial[..options.serial.len()].copy_from_slice(options.serial.as_bytes());
        let shared = Shared {
            pool: Pool::new(Arc::clone(&disk)),
            shown_size: AtomicU64::new(disk.size()),
            disk,
            block_size,
            limiter: RateLimiter::new(options.limits),
            counters: Counters::default(),
            serial,
            writeback: AtomicBool::new(true),
            read_errors: options.read_errors,
            write_errors: options.write_errors,
            on_failure: options.on_failure,
            log: LogLimit::default(),
            parked: AtomicUsize::new(0),
            mailboxes: Mutex::default(),
        };
        Ok(Self {
            name: options.name,
            queue_sizes: vec![options.queue_size; options.queues.into()],
            shared: Arc::new(shared),
            change: Arc::default(),
        })
    }

    /// The owner's side of the device.
    pub fn control(&self) -> BlockControl {
        BlockControl {
            shared: Arc::clone(&self.shared),
            change: Arc::clone(&self.change),
        }
    }

    fn space(&self) -> [u8; 60] {
        let shape = Shape {
            size: self.shared.shown_size.load(Ordering::Acquire),
            queues: self.queue_sizes.len() as u16,
            queue_size: self.queue_sizes[0],
            block_size: self.shared.block_size,
            writeback: self.shared.writeback.load(Ordering::Relaxed),
        };
        config::space(&self.shared.disk, shape)
    }
}

impl Device for BlockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        config::features(&self.shared.disk, self.queue_sizes.len() as u16)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = self.space();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = space.get(from..).unwrap_or_default();
        let count = there.len().min(data.len());
        data[..count].copy_from_slice(&there[..count]);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (config::WRITEBACK_AT, [value]) = (offset, data) {
            self.shared.writeback.store(*value != 0, Ordering::Relaxed);
        }
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        // It is called once.
        let _ = self.change.set(change);
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, VirtioError> {
        // Without FLUSH the driver has no way to make a write durable (virtio 1.2, 5.2.6.2).
        let flushes = activation.has(config::FLUSH);
        let assign = |queue| Assignment {
            worker: Box::new(Worker::new(Arc::clone(&self.shared), flushes)),
            queues: vec![queue],
        };
        Ok(activation.queues.into_iter().map(assign).collect())
    }

    fn reset(&mut self) {
        self.shared.writeback.store(true, Ordering::Relaxed);
        lock(&self.shared.mailboxes).clear();
    }
}

/// The owner's side of a device: statistics, limits, size, and going on after a failure. It may
/// be used from any thread.
#[derive(Clone)]
pub struct BlockControl {
    shared: Arc<Shared>,
    change: Arc<OnceLock<ConfigInterrupt>>,
}

impl fmt::Debug for BlockControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockControl")
            .field("disk", &self.shared.disk)
            .finish_non_exhaustive()
    }
}

impl BlockControl {
    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.shared.disk
    }

    /// What the disk has done.
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// The rate limits.
    pub fn limits(&self) -> Limits {
        self.shared.limiter.limits()
    }

    /// Other rate limits from now on, also for what the old ones hold back.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.limiter.set(limits);
        for mailbox in lock(&self.shared.mailboxes).iter() {
            mailbox.signal();
        }
    }

    /// Changes the disk's size in bytes, a whole number of the device's blocks, and tells the driver.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a part of a block, and as [`Disk::resize`].
    pub fn resize(&self, size: u64) -> Result<(), Error> {
        let Shared {
            disk,
            block_size,
            shown_size,
            ..
        } = &*self.shared;
        if !size.is_multiple_of(u64::from(*block_size)) {
            let name = disk.name();
            return Err(Error::Invalid(format!(
                "the disk {name} can not get a size of {size} bytes: it must be a multiple of the \
                 device's blocks of {block_size} bytes"
            )));
        }
        disk.resize(size)?;
        let show = || shown_size.store(disk.size(), Ordering::Release);
        match self.change.get() {
            Some(change) => change.change(show),
            None => show(),
        }
        Ok(())
    }

    /// Requests that failed and wait, by [`ErrorPolicy::Stop`], for [`BlockControl::retry`]. A
    /// machine can not be saved while there are any: they are in no ring.
    pub fn parked(&self) -> usize {
        self.shared.parked.load(Ordering::Acquire)
    }

    /// Tries the requests again that failed and wait.
    pub fn retry(&self) {
        for mailbox in lock(&self.shared.mailboxes).iter() {
            mailbox.ask_retry();
        }
    }
}
