//! What dirty tracking costs a device's write, and what a take costs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use strata_memory::test_utils::ram;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIZE: u64 = 1 << 28;

fn writes(c: &mut Criterion) {
    let addr = GuestAddress(0x12_3400);
    let plain = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), SIZE as usize)])
        .unwrap_or_else(|error| panic!("{error}"));
    let ram = ram(SIZE).unwrap_or_else(|error| panic!("{error}"));
    let mut group = c.benchmark_group("write_u64");
    group.bench_function("no_bitmap", |b| {
        b.iter(|| plain.write_obj(black_box(7_u64), black_box(addr)));
    });
    group.bench_function("tracking_off", |b| {
        b.iter(|| ram.memory().write_obj(black_box(7_u64), black_box(addr)));
    });
    ram.start_dirty().unwrap_or_else(|error| panic!("{error}"));
    group.bench_function("tracking_on", |b| {
        b.iter(|| ram.memory().write_obj(black_box(7_u64), black_box(addr)));
    });
    group.finish();
}

fn log(c: &mut Criterion) {
    let ram = ram(SIZE).unwrap_or_else(|error| panic!("{error}"));
    ram.start_dirty().unwrap_or_else(|error| panic!("{error}"));
    c.bench_function("mark_2MiB", |b| {
        b.iter(|| {
            ram.regions()
                .for_each(|region| region.dirty_bitmap().mark_dirty(black_box(4096), 2 << 20))
        });
    });
    c.bench_function("take_256MiB", |b| b.iter(|| ram.take_dirty()));
    c.bench_function("start_and_stop", |b| {
        ram.stop_dirty();
        b.iter(|| {
            let started = ram.start_dirty();
            ram.stop_dirty();
            started
        });
    });
}

criterion_group!(benches, writes, log);
criterion_main!(benches);
