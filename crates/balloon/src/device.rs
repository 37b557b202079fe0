//! The device's registers.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use strata_memory::GuestRam;
use strata_virtio::{Activation, Assignment, ConfigInterrupt, Device, DeviceType, Error};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::handle::{BalloonHandle, Shared};
use crate::stats::Stats;
use crate::worker::{BalloonWorker, Role};

/// Features (virtio 1.2, 5.5.3).
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;

/// What the balloon offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonConfig {
    /// The guest may take pages back by itself before it runs out of memory.
    pub deflate_on_oom: bool,
    /// The guest says all the time which pages it does not use.
    pub free_page_reporting: bool,
    /// The guest gives statistics when asked.
    pub stats: bool,
}

impl Default for BalloonConfig {
    fn default() -> Self {
        Self {
            deflate_on_oom: true,
            free_page_reporting: true,
            stats: true,
        }
    }
}

/// A memory balloon (virtio 1.2, 5.5).
pub struct Balloon {
    ram: Arc<GuestRam>,
    features: u64,
    queues: Vec<u16>,
    shared: Arc<Shared>,
}

impl Balloon {
    /// A balloon in `ram`, empty at first.
    ///
    /// # Errors
    /// Where there is no eventfd to be had.
    pub fn new(ram: Arc<GuestRam>, config: BalloonConfig) -> io::Result<Self> {
        let features = [
            (STATS_VQ, config.stats),
            (DEFLATE_ON_OOM, config.deflate_on_oom),
            (REPORTING, config.free_page_reporting),
        ];
        let features = features
            .iter()
            .filter(|(_, on)| *on)
            .fold(0, |bits, (bit, _)| bits | bit);
        let queues = 2 + usize::from(config.stats) + usize::from(config.free_page_reporting);
        let shared = Shared {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            change: OnceLock::new(),
            ask: EventFd::new(EFD_NONBLOCK)?,
            stats: Mutex::new((0, Stats::default())),
            discarded: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Ok(Self {
            ram,
            features,
            queues: vec![128; queues],
            shared: Arc::new(shared),
        })
    }

    /// A handle for whoever decides about the balloon's size.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle(Arc::clone(&self.shared))
    }

    /// num_pages, actual (5.5.4). What follows them belongs to features that are not offered.
    fn config(&self) -> [u8; 8] {
        let target = self.shared.target.load(Ordering::Acquire);
        let actual = self.shared.actual.load(Ordering::Acquire);
        (u64::from(target) | u64::from(actual) << 32).to_le_bytes()
    }
}

/// Which queue is what: those of features that were not negotiated are not counted (5.5.2).
fn roles(features: u64) -> Vec<Role> {
    let mut roles = vec![Role::Inflate, Role::Deflate];
    if features & STATS_VQ != 0 {
        roles.push(Role::Stats);
    }
    if features & REPORTING != 0 {
        roles.push(Role::Reporting);
    }
    roles
}

impl Device for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::BALLOON
    }

    fn name(&self) -> &str {
        "balloon"
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..));
        for (to, byte) in data.iter_mut().zip(from.unwrap_or(&[])) {
            *to = *byte;
        }
    }

    /// The driver writes how many pages it has given, and nothing else.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            let actual = u32::from_le_bytes(actual);
            self.shared.actual.store(actual, Ordering::Release);
        }
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        // Attached once.
        let _ = self.shared.change.set(change);
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        let all = roles(activation.features);
        let roles = activation.queues.iter().map(|queue| {
            let role = all.get(usize::from(queue.index())).copied();
            role.unwrap_or(Role::None)
        });
        let worker = BalloonWorker::new(
            Arc::clone(&self.ram),
            Arc::clone(&self.shared),
            roles.collect(),
        );
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(worker),
        }])
    }

    /// The next driver begins with an empty balloon.
    fn reset(&mut self) {
        self.shared.actual.store(0, Ordering::Release);
    }
}
