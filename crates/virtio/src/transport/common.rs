//! The common configuration registers (virtio 1.2, 4.1.4.3), apart from what they set in motion.

use std::sync::atomic::Ordering;

use crate::features;
use crate::interrupt::{NO_VECTOR, Signals};
use crate::queue::QueueState;

/// Device status (virtio 1.2, 2.1).
#[cfg(feature = "test-utils")]
pub(crate) const ACKNOWLEDGE: u8 = 1;
#[cfg(feature = "test-utils")]
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;

/// Offsets.
pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
pub(crate) const DEVICE_FEATURE: u64 = 0x04;
pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
pub(crate) const CONFIG_VECTOR: u64 = 0x10;
pub(crate) const NUM_QUEUES: u64 = 0x12;
pub(crate) const STATUS: u64 = 0x14;
pub(crate) const GENERATION: u64 = 0x15;
pub(crate) const QUEUE_SELECT: u64 = 0x16;
pub(crate) const QUEUE_SIZE: u64 = 0x18;
pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
pub(crate) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
pub(crate) const QUEUE_DESC: u64 = 0x20;
pub(crate) const QUEUE_DRIVER: u64 = 0x28;
pub(crate) const QUEUE_DEVICE: u64 = 0x30;

/// The registers' values. Vectors, generation and the broken state are in [`Signals`].
#[derive(Clone, Debug)]
pub(super) struct Registers {
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) device_select: u32,
    pub(super) driver_select: u32,
    pub(super) queue_select: u16,
    /// Without NEEDS_RESET.
    pub(super) status: u8,
    pub(super) queues: Vec<QueueRegisters>,
    /// How many vectors a queue may be given.
    pub(super) vectors: u16,
}

#[derive(Clone, Debug)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) state: QueueState,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            state: QueueState {
                size: max_size,
                ..QueueState::default()
            },
        }
    }
}

impl Registers {
    pub(super) fn new(offered: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            offered,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            status: 0,
            queues: queue_sizes
                .iter()
                .copied()
                .map(QueueRegisters::new)
                .collect(),
            vectors,
        }
    }

    /// As they are after a reset of the device.
    pub(super) fn reset(&mut self) {
        self.accepted = 0;
        self.device_select = 0;
        self.driver_select = 0;
        self.queue_select = 0;
        self.status = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
    }

    /// Whether a driver that accepts what it has accepted can be served (virtio 1.2, 6.2).
    pub(super) fn features_fit(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & features::VERSION_1 != 0
    }

    /// Reads a register in its own width, and the halves of 64-bit ones (4.1.3.1). Everything else
    /// reads as zeroes.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], signals: &Signals) {
        let queue = self.queues.get(usize::from(self.queue_select));
        let vector = signals.queue_vectors.get(usize::from(self.queue_select));
        let queue_u16 = |get: fn(&QueueState) -> u16| queue.map_or(0, |queue| get(&queue.state));
        let queue_u32 = |get: fn(&QueueState) -> u64, high: bool| {
            queue.map_or(0, |queue| half(get(&queue.state), high))
        };
        let value = match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_select,
            (DEVICE_FEATURE, 4) => selected(self.offered, self.device_select),
            (DRIVER_FEATURE_SELECT, 4) => self.driver_select,
            (DRIVER_FEATURE, 4) => selected(self.accepted, self.driver_select),
            (CONFIG_VECTOR, 2) => signals.config_vector.load(Ordering::Relaxed).into(),
            (NUM_QUEUES, 2) => self.queues.len() as u32,
            (STATUS, 1) => {
                let broken = signals.needs_reset.load(Ordering::SeqCst);
                (self.status | if broken { NEEDS_RESET } else { 0 }).into()
            }
            (GENERATION, 1) => signals.generation.load(Ordering::Acquire) & 0xff,
            (QUEUE_SELECT, 2) => self.queue_select.into(),
            (QUEUE_SIZE, 2) => queue_u16(|queue| queue.size).into(),
            (QUEUE_VECTOR, 2) => vector
                .map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
                .into(),
            (QUEUE_ENABLE, 2) => queue_u16(|queue| queue.enabled.into()).into(),
            // The queue's own index: an address for each.
            (QUEUE_NOTIFY_OFF, 2) => self.queue_select.into(),
            (QUEUE_DESC, 4) => queue_u32(|queue| queue.desc_table, false),
            (0x24, 4) => queue_u32(|queue| queue.desc_table, true),
            (QUEUE_DRIVER, 4) => queue_u32(|queue| queue.avail_ring, false),
            (0x2c, 4) => queue_u32(|queue| queue.avail_ring, true),
            (QUEUE_DEVICE, 4) => queue_u32(|queue| queue.used_ring, false),
            (0x34, 4) => queue_u32(|queue| queue.used_ring, true),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    /// Writes any register but the status. What may not be written now is not.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], signals: &Signals) {
        let mut bytes = [0; 4];
        let Some(to) = bytes.get_mut(..data.len()) else {
            return;
        };
        to.copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_select = value,
            (DRIVER_FEATURE_SELECT, 4) => self.driver_select = value,
            // What was accepted stays so (virtio 1.2, 3.1.1).
            (DRIVER_FEATURE, 4) if self.status & FEATURES_OK == 0 => {
                select(&mut self.accepted, self.driver_select, value);
            }
            (CONFIG_VECTOR, 2) => {
                let vector = self.vector(value as u16);
                signals.config_vector.store(vector, Ordering::Relaxed);
            }
            (QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (QUEUE_VECTOR, 2) => {
                let vector = self.vector(value as u16);
                let queue = signals.queue_vectors.get(usize::from(self.queue_select));
                if let Some(queue) = queue {
                    queue.store(vector, Ordering::Relaxed);
                }
            }
            _ => self.write_queue(offset, data.len(), value),
        }
    }

    /// Where a queue is can be said before it is enabled, and not after DRIVER_OK (4.1.5.1.3).
    fn write_queue(&mut self, offset: u64, width: usize, value: u32) {
        if self.status & DRIVER_OK != 0 {
            return;
        }
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        let Some(queue) = queue.filter(|queue| !queue.state.enabled) else {
            return;
        };
        let queue = &mut queue.state;
        match (offset, width) {
            (QUEUE_SIZE, 2) => queue.size = value as u16,
            (QUEUE_ENABLE, 2) => queue.enabled = value == 1,
            (QUEUE_DESC, 4) => set_half(&mut queue.desc_table, false, value),
            (0x24, 4) => set_half(&mut queue.desc_table, true, value),
            (QUEUE_DRIVER, 4) => set_half(&mut queue.avail_ring, false, value),
            (0x2c, 4) => set_half(&mut queue.avail_ring, true, value),
            (QUEUE_DEVICE, 4) => set_half(&mut queue.used_ring, false, value),
            (0x34, 4) => set_half(&mut queue.used_ring, true, value),
            _ => {}
        }
    }

    /// A vector that does not exist is refused by reading back as none (4.1.5.1.2.1).
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }
}

fn half(value: u64, high: bool) -> u32 {
    (value >> (u32::from(high) * 32)) as u32
}

fn set_half(field: &mut u64, high: bool, value: u32) {
    let shift = u32::from(high) * 32;
    *field = *field & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
}

/// Feature bits 32n to 32n + 31, of which there are 64.
fn selected(features: u64, select: u32) -> u32 {
    match select {
        0 | 1 => half(features, select == 1),
        _ => 0,
    }
}

fn select(features: &mut u64, select: u32, value: u32) {
    if let 0 | 1 = select {
        set_half(features, select == 1, value);
    }
}
