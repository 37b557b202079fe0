//! The hot path of a queue, and a register access.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strata_virtio::test_utils::{Buffer, MockDriver, MockQueue};
use strata_virtio::{
    Activation, Assignment, Chain, Context, Device, DeviceType, Error, Queue, Worker,
};

/// Gives its queue away to whoever measures, or serves it in a thread.
struct Bench {
    steal: Option<std::sync::mpsc::Sender<Queue>>,
}

impl Device for Bench {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn name(&self) -> &str {
        "bench"
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, mut activation: Activation) -> Result<Vec<Assignment>, Error> {
        if let Some(steal) = &self.steal {
            let queue = activation.take(0).ok_or(Error::Driver("no queue"))?;
            let _ = steal.send(queue);
            return Ok(Vec::new());
        }
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(Answer(Chain::new())),
        }])
    }
}

struct Answer(Chain);

impl Worker for Answer {
    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &mut context.queues[queue];
        while queue.pop(&mut self.0)? {
            queue.push(self.0.head(), 0)?;
        }
        queue.notify()
    }
}

/// A request of a block device: header, 4 KiB, status.
fn request(base: u64) -> [Buffer; 3] {
    let buffer = |offset, len, writable| Buffer {
        addr: base + offset,
        len,
        writable,
    };
    [
        buffer(0, 16, false),
        buffer(4096, 4096, true),
        buffer(16, 1, true),
    ]
}

const DEPTH: u64 = 32;

fn fill(ring: &mut MockQueue, base: u64) {
    for index in 0..DEPTH {
        ring.add(&request(base + index * 8192));
    }
}

fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(DEPTH));
    for (name, features) in [("EVENT_IDX", u64::MAX), ("plain", 0)] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut driver = MockDriver::new(Box::new(Bench {
            steal: Some(sender),
        }));
        driver.start(features);
        let Ok(mut queue) = receiver.recv() else {
            return;
        };
        let base = driver.allocate(DEPTH * 8192);
        let mut chain = Chain::new();
        // The driver's side is not measured: its part is set up and torn down around.
        group.bench_function(format!("pop, push 32 requests and notify, {name}"), |b| {
            b.iter_custom(|rounds| {
                let mut time = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    let ring = driver.queue(0);
                    fill(ring, base);
                    ring.set_used_event(ring.next_used().wrapping_add(DEPTH as u16 - 1));
                    let start = std::time::Instant::now();
                    while queue.pop(&mut chain).unwrap_or(false) {
                        let _ = queue.push(black_box(chain.head()), 4097);
                    }
                    let _ = queue.notify();
                    time += start.elapsed();
                    while driver.queue(0).take_used().is_some() {}
                }
                time
            });
        });
    }
    group.finish();
}

fn round_trip(c: &mut Criterion) {
    let mut driver = MockDriver::new(Box::new(Bench { steal: None }));
    driver.start(u64::MAX);
    let base = driver.allocate(8192);
    c.bench_function("kick, worker's thread, interrupt", |b| {
        b.iter(|| {
            driver.queue(0).add(&request(base));
            driver.kick(0);
            driver.wait_used(0)
        });
    });
}

fn registers(c: &mut Criterion) {
    let driver = MockDriver::new(Box::new(Bench { steal: None }));
    c.bench_function("read a common register, through the bus", |b| {
        b.iter(|| driver.read_common::<u8>(black_box(0x14)));
    });
    c.bench_function("write queue_select, through the bus", |b| {
        b.iter(|| driver.write_common(black_box(0x16), &[0, 0]));
    });
}

criterion_group!(benches, queue, round_trip, registers);
criterion_main!(benches);
