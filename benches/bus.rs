//! What a device access costs between a vCPU's exit and its next entry: finding the device, its
//! lock, and the device itself.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use strata::arch;
use strata::console::sink::Sink;
use strata::devices::{self, Bus, Pci};
use strata::machine::Ended;
use strata_interrupts::ioapic::IOAPIC_BASE;
use strata_interrupts::{Controller, Kind};
use strata_legacy::layout;
use strata_memory::{Backing, GuestRam, MemorySize, Pages, RamConfig};
use strata_vcpu::{ExitHandler, Host};

/// Where no device is, on either bus.
const NOWHERE: u64 = 0x8000;

/// A machine's bus, with the split controller: it has an IOAPIC to reach by MMIO.
fn bus() -> Bus {
    let host = Host::open().unwrap();
    let vm = Arc::new(host.kvm().create_vm().unwrap());
    arch::prepare_vm(&vm).unwrap();
    let controller = Controller::new(Arc::clone(&vm), Kind::Split).unwrap();
    let config = RamConfig {
        size: MemorySize::new(16 << 20),
        backing: Backing::Anonymous(Pages::Small),
    };
    let ram = GuestRam::new(&config, &arch::RAM_LAYOUT).unwrap();
    let memory = ram.memory().clone();
    let pci = Arc::new(Pci::new(vm, controller.clone(), memory.clone(), false).unwrap());
    let devices = devices::create(&controller, Arc::clone(&pci), Sink::Null).unwrap();
    let ended = Arc::new(Ended::new().unwrap());
    Bus::new(devices.io, pci, devices.power, controller, memory, ended)
}

fn ports(c: &mut Criterion) {
    let bus = bus();
    let mut group = c.benchmark_group("port");
    for (name, port) in [
        ("read of the serial port's line status", layout::COM1 + 5),
        ("read of the clock's data", layout::RTC + 1),
        ("read where no device is", NOWHERE as u16),
    ] {
        group.bench_function(name, |b| {
            let mut data = [0xff];
            b.iter(|| bus.pio_read(black_box(port), &mut data));
        });
    }
    group.bench_function("write of a serial character", |b| {
        b.iter(|| bus.pio_write(black_box(layout::COM1), b"x"));
    });
}

fn mmio(c: &mut Criterion) {
    let bus = bus();
    let mut group = c.benchmark_group("MMIO");
    for (name, addr) in [
        ("read of the IOAPIC", IOAPIC_BASE),
        ("read where no device is", NOWHERE),
    ] {
        group.bench_function(name, |b| {
            let mut data = [0xff; 4];
            b.iter(|| bus.mmio_read(black_box(addr), &mut data));
        });
    }
    group.bench_function("write of the IOAPIC's index", |b| {
        b.iter(|| bus.mmio_write(black_box(IOAPIC_BASE), &[0x10, 0, 0, 0]));
    });
}

criterion_group!(benches, ports, mmio);
criterion_main!(benches);
