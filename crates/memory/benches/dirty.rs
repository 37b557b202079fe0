//! What dirty tracking costs a device's write, and what a take costs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use strata_memory::GuestRam;
use strata_memory::test_utils::ram;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

const SIZE: u64 = 1 << 28;
const RANGES: [(GuestAddress, usize); 1] = [(GuestAddress(0), SIZE as usize)];

/// A device's write, compiled once for each kind of memory.
#[inline(never)]
fn write<M: GuestMemory>(memory: &M, addr: GuestAddress) -> bool {
    memory.write_obj(7_u64, addr).is_ok()
}

fn start(ram: &GuestRam) {
    ram.start_dirty().unwrap_or_else(|error| panic!("{error}"));
}

fn writes(c: &mut Criterion) {
    let addr = GuestAddress(0x12_3400);
    let ram = ram(SIZE).unwrap_or_else(|error| panic!("{error}"));
    let mut group = c.benchmark_group("write_u64");
    if let Ok(plain) = GuestMemoryMmap::<()>::from_ranges(&RANGES) {
        group.bench_function("no_bitmap", |b| b.iter(|| write(&plain, black_box(addr))));
    }
    if let Ok(tracked) = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&RANGES) {
        group.bench_function("vm_memory_bitmap", |b| {
            b.iter(|| write(&tracked, black_box(addr)))
        });
    }
    group.bench_function("tracking_off", |b| {
        b.iter(|| write(ram.memory(), black_box(addr)))
    });
    start(&ram);
    group.bench_function("tracking_on", |b| {
        b.iter(|| write(ram.memory(), black_box(addr)))
    });
    group.finish();
}

fn log(c: &mut Criterion) {
    let ram = ram(SIZE).unwrap_or_else(|error| panic!("{error}"));
    start(&ram);
    let bitmaps: Vec<_> = ram.regions().map(|region| region.dirty_bitmap()).collect();
    c.bench_function("mark_2MiB", |b| {
        b.iter(|| {
            bitmaps
                .iter()
                .for_each(|bitmap| bitmap.mark_dirty(black_box(4096), 2 << 20))
        });
    });
    c.bench_function("take_256MiB", |b| b.iter(|| ram.take_dirty()));
    ram.stop_dirty();
    c.bench_function("start_and_stop", |b| {
        b.iter(|| {
            start(&ram);
            ram.stop_dirty();
        });
    });
}

criterion_group!(benches, writes, log);
criterion_main!(benches);
