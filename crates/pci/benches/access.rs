//! What an access of a guest costs in this crate, beside the exit that it is.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use strata_pci::{Bus, BusLayout, Function, HostBridge};

fn accesses(c: &mut Criterion) {
    let layout = BusLayout {
        ecam: 0xe000_0000,
        mem32: 0xd000_0000..0xe000_0000,
        mem64: 1 << 38..1 << 39,
    };
    let Ok(bus) = Bus::new(layout) else { return };
    for _ in 0..8 {
        let bridge: Arc<dyn Function> = Arc::new(HostBridge::new());
        if bus.add(bridge).is_err() {
            return;
        }
    }
    let mut data = [0; 4];
    c.bench_function("read configuration space by ECAM", |b| {
        b.iter(|| bus.read_ecam(black_box(3 << 15), &mut data));
    });
    c.bench_function("read configuration space by ports", |b| {
        b.iter(|| {
            bus.write_port(0, &black_box(0x8000_1800_u32).to_le_bytes());
            bus.read_port(4, &mut data);
        });
    });
    c.bench_function("an address that no BAR of 9 functions decodes", |b| {
        b.iter(|| bus.read_memory(black_box(1 << 38), &mut data));
    });
}

criterion_group!(benches, accesses);
criterion_main!(benches);
