//! A driver that keeps its requests in the ring as Linux does: it takes all that came back, makes
//! new ones available, kicks if it is asked to, and sleeps until an interrupt if nothing came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_block::{BlockDevice, BlockOptions, Disk};
use strata_memory::GuestMemory;
use strata_virtio::features::RING_EVENT_IDX;
use strata_virtio::test_utils::{MockDriver, MockQueue, flags};
use vm_memory::{Bytes, GuestAddress};

use crate::{LENGTH, Offsets, Runner, cpu};

const HEADERS: u64 = 4 << 20;
const STATUSES: u64 = HEADERS + 0x1000;
const DATA: u64 = HEADERS + 0x10000;

/// What a driver's rings are in front of.
pub(crate) trait Front {
    /// The memory with the rings and all buffers.
    fn memory(&self) -> &GuestMemory;

    /// The one queue.
    fn queue(&mut self) -> &mut MockQueue;

    /// Kicks, if the device wants it, now that so many requests were made available in all.
    fn kick(&mut self, available: u16);

    /// Waits for an interrupt; false after a long time.
    fn wait_interrupt(&mut self) -> bool;

    /// CPU time of who serves the requests.
    fn cpu(&self) -> Duration;
}

/// The device in this process.
impl Front for MockDriver {
    fn memory(&self) -> &GuestMemory {
        self.memory()
    }

    fn queue(&mut self) -> &mut MockQueue {
        self.queue(0)
    }

    fn kick(&mut self, _available: u16) {
        self.kick(0);
    }

    fn wait_interrupt(&mut self) -> bool {
        Self::wait_interrupt(self, 1, Duration::from_secs(10))
    }

    /// This thread plays the driver.
    fn cpu(&self) -> Duration {
        cpu::process() - cpu::thread()
    }
}

pub(crate) struct Guest<F> {
    front: F,
    available: u16,
    write: bool,
    depth: u16,
    next_used: u16,
    offsets: Offsets,
}

/// A started device of this disk.
pub(crate) fn device(disk: Disk) -> MockDriver {
    let device = BlockDevice::new(Arc::new(disk), BlockOptions::default()).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    assert!(driver.accepted() & RING_EVENT_IDX != 0);
    driver
}

impl<F: Front> Guest<F> {
    pub(crate) fn new(mut front: F, write: bool, depth: u16) -> Self {
        let memory = front.memory().clone();
        let queue = front.queue();
        for slot in 0..depth {
            let (head, at) = (slot * 3, u64::from(slot));
            let data = if write { 0 } else { flags::WRITE };
            let header = (HEADERS + at * 16, 16, flags::NEXT, head + 1);
            let body = (
                DATA + at * LENGTH,
                LENGTH as u32,
                flags::NEXT | data,
                head + 2,
            );
            queue.write_descriptor(head, header);
            queue.write_descriptor(head + 1, body);
            queue.write_descriptor(head + 2, (STATUSES + at, 1, flags::WRITE, 0));
            let fill = vec![1; LENGTH as usize];
            memory
                .write_slice(&fill, GuestAddress(DATA + at * LENGTH))
                .unwrap();
        }
        Self {
            front,
            available: 0,
            write,
            depth,
            next_used: 0,
            offsets: Offsets::new(),
        }
    }

    fn publish(&mut self, slot: u16) {
        let mut header = [0; 16];
        header[0] = self.write.into();
        header[8..].copy_from_slice(&(self.offsets.next() / 512).to_le_bytes());
        let memory = self.front.memory();
        let at = GuestAddress(HEADERS + u64::from(slot) * 16);
        memory.write_slice(&header, at).unwrap();
        let status = GuestAddress(STATUSES + u64::from(slot));
        memory.write_obj(0xff_u8, status).unwrap();
        self.front.queue().publish(slot * 3);
        self.available = self.available.wrapping_add(1);
    }

    /// Takes what came back, and says which requests it was.
    fn collect(&mut self, slots: &mut Vec<u16>) {
        let (used, ring, size) = {
            let queue = self.front.queue();
            (queue.used_idx(), queue.used_ring, queue.size())
        };
        while self.next_used != used {
            let at = ring + 4 + u64::from(self.next_used % size) * 8;
            let head: u32 = self.front.memory().read_obj(GuestAddress(at)).unwrap();
            let slot = head as u16 / 3;
            let status = GuestAddress(STATUSES + u64::from(slot));
            let status: u8 = self.front.memory().read_obj(status).unwrap();
            assert_eq!(status, 0);
            slots.push(slot);
            self.next_used = self.next_used.wrapping_add(1);
        }
    }

    fn wait(&mut self, slots: &mut Vec<u16>) {
        loop {
            self.collect(slots);
            if !slots.is_empty() {
                return;
            }
            let next = self.next_used;
            self.front.queue().set_used_event(next);
            self.collect(slots);
            if !slots.is_empty() {
                return;
            }
            assert!(self.front.wait_interrupt());
        }
    }
}

impl<F: Front> Runner for Guest<F> {
    fn run(&mut self, until: Instant) -> u64 {
        let mut in_flight = self.depth;
        (0..in_flight).for_each(|slot| self.publish(slot));
        self.front.kick(self.available);
        let mut done = 0;
        let mut slots = Vec::with_capacity(self.depth.into());
        while in_flight > 0 {
            self.wait(&mut slots);
            done += slots.len() as u64;
            if Instant::now() < until {
                slots.iter().for_each(|slot| self.publish(*slot));
                self.front.kick(self.available);
            } else {
                in_flight -= slots.len() as u16;
            }
            slots.clear();
        }
        done
    }

    fn cpu(&self) -> Duration {
        self.front.cpu()
    }
}
