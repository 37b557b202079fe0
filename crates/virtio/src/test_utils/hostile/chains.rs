//! Chains and rings that no driver may build.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use crate::test_utils::MockDriver;
use crate::test_utils::ring::flags::{INDIRECT, NEXT, WRITE};

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) must_break: bool,
    pub(super) build: fn(&mut MockDriver, u16),
}

const fn broken(name: &'static str, build: fn(&mut MockDriver, u16)) -> Case {
    Case {
        name,
        must_break: true,
        build,
    }
}

const fn odd(name: &'static str, build: fn(&mut MockDriver, u16)) -> Case {
    Case {
        name,
        must_break: false,
        build,
    }
}

/// 16 MiB are the mock machine's RAM; these are in its middle, and behind it.
const RAM: u64 = 16 << 20;
const BUFFER: u64 = 8 << 20;
const TABLE: u64 = 10 << 20;

pub(super) const CASES: &[Case] = &[
    broken("a descriptor that is its own next", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT, 0)]);
    }),
    broken("a loop of two descriptors", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT, 1), (BUFFER, 16, NEXT, 0)]);
    }),
    broken("an empty buffer", |d, q| one(d, q, &[(BUFFER, 0, 0, 0)])),
    broken("an empty writable buffer at the end", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT, 1), (BUFFER, 0, WRITE, 0)]);
    }),
    broken("a readable buffer after a writable one", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT | WRITE, 1), (BUFFER, 16, 0, 0)]);
    }),
    broken("a buffer behind the end of memory", |d, q| {
        one(d, q, &[(RAM, 16, WRITE, 0)]);
    }),
    broken("a buffer across the end of memory", |d, q| {
        one(d, q, &[(RAM - 8, 16, WRITE, 0)]);
    }),
    broken("a buffer across the end of addresses", |d, q| {
        one(d, q, &[(u64::MAX - 7, 16, 0, 0)]);
    }),
    broken("a buffer of 4 GiB", |d, q| {
        one(d, q, &[(0, u32::MAX, 0, 0)])
    }),
    broken("a buffer in the device's own registers", |d, q| {
        let bar = d.notify_address(0);
        one(d, q, &[(bar, 16, WRITE, 0)]);
    }),
    broken("a next descriptor outside of the table", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT, 0xffff)]);
    }),
    broken("a head outside of the table", |d, q| {
        let size = d.queue(q).size();
        d.queue(q).publish(size);
    }),
    broken("more chains than entries", |d, q| {
        let size = d.queue(q).size();
        d.queue(q).set_avail_idx(size + 1);
    }),
    broken("an available index that goes back", |d, q| {
        d.queue(q).set_avail_idx(0xffff);
    }),
    broken("an indirect table in an indirect table", |d, q| {
        indirect(d, q, &[(TABLE + 4096, 16, INDIRECT, 0)], 16);
    }),
    broken("an indirect table that refers to itself", |d, q| {
        indirect(d, q, &[(TABLE, 16, INDIRECT, 0)], 16);
    }),
    broken("an empty indirect table", |d, q| indirect(d, q, &[], 0)),
    broken("an indirect table of 17 bytes", |d, q| {
        indirect(d, q, &[(BUFFER, 16, 0, 0)], 17);
    }),
    broken("an indirect table outside of memory", |d, q| {
        one(d, q, &[(RAM + 4096, 32, INDIRECT, 0)]);
    }),
    broken("an indirect table across the end of addresses", |d, q| {
        one(d, q, &[(u64::MAX - 8, 32, INDIRECT, 0)]);
    }),
    broken("an indirect descriptor with a next one", |d, q| {
        d.queue(q).write_descriptor_at(TABLE, 0, (BUFFER, 16, 0, 0));
        one(d, q, &[(TABLE, 16, INDIRECT | NEXT, 1), (BUFFER, 16, 0, 0)]);
    }),
    broken("a loop in an indirect table", |d, q| {
        indirect(d, q, &[(BUFFER, 16, NEXT, 1), (BUFFER, 16, NEXT, 0)], 32);
    }),
    broken("a next descriptor outside of an indirect table", |d, q| {
        indirect(d, q, &[(BUFFER, 16, NEXT, 1)], 16);
    }),
    broken("a chain of 4 GiB and more", |d, q| {
        let buffers: Vec<_> = (1..301)
            .map(|next| (0, 15 << 20, if next < 300 { NEXT } else { 0 }, next))
            .collect();
        indirect(d, q, &buffers, 300 * 16);
    }),
    broken("a chain of too many buffers", |d, q| {
        let buffers: Vec<_> = (1..2001)
            .map(|next| (BUFFER, 1, if next < 2000 { NEXT } else { 0 }, next))
            .collect();
        indirect(d, q, &buffers, 2000 * 16);
    }),
    broken("an indirect table of 256 MiB", |d, q| {
        d.queue(q)
            .write_descriptor_at(TABLE, 0, (BUFFER, 16, NEXT, 0));
        one(d, q, &[(TABLE, 256 << 20, INDIRECT, 0)]);
    }),
    odd("nothing to write", |d, q| one(d, q, &[(BUFFER, 64, 0, 0)])),
    odd("nothing to read", |d, q| {
        one(d, q, &[(BUFFER, 64, WRITE, 0)])
    }),
    odd("one byte to read", |d, q| one(d, q, &[(BUFFER, 1, 0, 0)])),
    odd("one byte to write", |d, q| {
        one(d, q, &[(BUFFER, 1, WRITE, 0)])
    }),
    odd("ones to read", |d, q| {
        let ones = [0xff; 64];
        d.memory().write_slice(&ones, GuestAddress(BUFFER)).unwrap();
        one(d, q, &[(BUFFER, 64, NEXT, 1), (BUFFER + 64, 64, WRITE, 0)]);
    }),
    odd("bytes in single descriptors", |d, q| {
        let buffers: Vec<_> = (1..41)
            .map(|next| {
                (
                    BUFFER + u64::from(next),
                    1,
                    if next < 40 { NEXT } else { 0 },
                    next,
                )
            })
            .collect();
        indirect(d, q, &buffers, 40 * 16);
    }),
    odd("all of memory to write", |d, q| {
        // But for the rings.
        one(d, q, &[(4 << 20, 12 << 20, WRITE, 0)]);
    }),
    odd("one chain twice", |d, q| {
        one(d, q, &[(BUFFER, 16, NEXT, 1), (BUFFER, 16, WRITE, 0)]);
        d.queue(q).publish(0);
    }),
];

type Descriptor = (u64, u32, u16, u16);

/// Publishes a chain that begins at descriptor 0.
fn one(driver: &mut MockDriver, queue: u16, descriptors: &[Descriptor]) {
    let ring = driver.queue(queue);
    for (descriptor, index) in descriptors.iter().zip(0..) {
        ring.write_descriptor(index, *descriptor);
    }
    ring.publish(0);
}

/// Publishes a descriptor that refers to `len` bytes of a table.
fn indirect(driver: &mut MockDriver, queue: u16, descriptors: &[Descriptor], len: u32) {
    let ring = driver.queue(queue);
    for (descriptor, index) in descriptors.iter().zip(0..) {
        ring.write_descriptor_at(TABLE, index, *descriptor);
    }
    one(driver, queue, &[(TABLE, len, INDIRECT, 0)]);
}

/// Numbers that look random and are the same in every run.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// xorshift64.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Chains whose every field is random, though most are near to what is right.
pub(super) fn random(driver: &mut MockDriver, queue: u16) {
    let mut numbers = Numbers::new(u64::from(queue) + 0x9e37_79b9);
    for _ in 0..40 {
        driver.start(u64::MAX);
        for _ in 0..8 {
            let size = driver.queue(queue).size();
            for index in 0..size.min(8) {
                let descriptor = random_descriptor(&mut numbers);
                driver.queue(queue).write_descriptor(index, descriptor);
                let descriptor = random_descriptor(&mut numbers);
                driver
                    .queue(queue)
                    .write_descriptor_at(TABLE, index, descriptor);
            }
            driver.queue(queue).publish((numbers.next() % 8) as u16);
            driver.force_kick(queue);
        }
        driver.reset();
    }
}

fn random_descriptor(numbers: &mut Numbers) -> Descriptor {
    let addr = match numbers.next() % 8 {
        0 => numbers.next(),
        1 => TABLE,
        2 => RAM - numbers.next() % 4096,
        _ => BUFFER + numbers.next() % 4096,
    };
    let len = match numbers.next() % 8 {
        0 => numbers.next() as u32,
        1 => 16 * (numbers.next() % 9) as u32,
        _ => (numbers.next() % 600) as u32,
    };
    let flags = match numbers.next() % 8 {
        0 => numbers.next() as u16,
        1 => INDIRECT,
        2..5 => NEXT | (numbers.next() as u16 & WRITE),
        _ => numbers.next() as u16 & WRITE,
    };
    (addr, len, flags, (numbers.next() % 9) as u16)
}

/// A ring that another thread writes all the time.
pub(super) fn changing(driver: &mut MockDriver, queue: u16) {
    driver.start(u64::MAX);
    let ring = driver.queue(queue);
    let (desc_table, avail_ring, memory) =
        (ring.desc_table, ring.avail_ring, driver.memory().clone());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut numbers = Numbers::new(7);
            while !stop.load(Ordering::Relaxed) {
                let value = numbers.next();
                let at = match value % 4 {
                    0 => avail_ring + 2,
                    1 => avail_ring + 4 + numbers.next() % 16,
                    _ => desc_table + numbers.next() % 128,
                };
                let byte = if value & 16 == 0 {
                    0
                } else {
                    numbers.next() as u8
                };
                memory.write_obj(byte, GuestAddress(at)).unwrap();
            }
        });
        for _ in 0..50 {
            driver.force_kick(queue);
            std::thread::sleep(Duration::from_micros(200));
            if driver.needs_reset() {
                driver.start(u64::MAX);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
