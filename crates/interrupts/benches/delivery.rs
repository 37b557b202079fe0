//! What it costs the host to trigger an interrupt, to change routes, and to mask.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kvm_ioctls::{Kvm, VcpuFd};
use strata_interrupts::ioapic::Ioapic;
use strata_interrupts::test_utils::RecordingBus;
use strata_interrupts::{ChipState, Controller, Interrupt, Kind, MsiMessage};

const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_0000,
    data: 0x41,
};

const PIN: usize = 5;

/// A VM with one vCPU that never runs: interrupts end in its local APIC, which is enabled. Pin 5
/// is edge triggered and unmasked.
fn machine(kind: Kind) -> (Controller, VcpuFd) {
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    let controller = Controller::new(Arc::clone(&vm), kind).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    const SPURIOUS_VECTOR: usize = 0xf0;
    lapic.regs[SPURIOUS_VECTOR + 1] = 1;
    vcpu.set_lapic(&lapic).unwrap();
    let mut state = controller.state().unwrap();
    match &mut state.chips {
        ChipState::InKernel(chips) => chips.ioapic.entries[PIN] = 0x35,
        ChipState::Split(ioapic) => ioapic.entries[PIN] = 0x35,
    }
    controller.set_state(&state).unwrap();
    assert!(controller.send(MESSAGE).unwrap());
    (controller, vcpu)
}

fn open(controller: &Controller) -> Interrupt {
    let vector = controller.msi().unwrap();
    controller.set_messages(&[(vector.gsi(), MESSAGE)]).unwrap();
    controller.set_masked(vector.gsi(), false).unwrap();
    vector
}

fn trigger(c: &mut Criterion) {
    let mut group = c.benchmark_group("trigger");
    let (controller, _vcpu) = machine(Kind::InKernel);
    let vector = open(&controller);
    group.bench_function("irqfd", |b| b.iter(|| vector.trigger().unwrap()));
    group.bench_function("direct MSI", |b| {
        b.iter(|| controller.send(black_box(MESSAGE)).unwrap());
    });
    for kind in [Kind::InKernel, Kind::Split] {
        let (controller, _vcpu) = machine(kind);
        let line = controller.line(PIN as u32).unwrap();
        group.bench_function(BenchmarkId::new("line up and down", kind), |b| {
            b.iter(|| {
                line.set(true).unwrap();
                line.set(false).unwrap();
            });
        });
    }
    group.finish();
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("routes");
    for count in [1, 64, 1024] {
        let (controller, _vcpu) = machine(Kind::Split);
        let vectors: Vec<Interrupt> = (0..count).map(|_| controller.msi().unwrap()).collect();
        let mut data = 0;
        group.bench_function(BenchmarkId::new("set messages", count), |b| {
            b.iter(|| {
                data ^= 1;
                let message = MsiMessage { data, ..MESSAGE };
                let messages: Vec<_> = vectors.iter().map(|v| (v.gsi(), message)).collect();
                controller.set_messages(&messages).unwrap();
            });
        });
    }
    let (controller, _vcpu) = machine(Kind::Split);
    let vector = open(&controller);
    group.bench_function("mask and unmask", |b| {
        b.iter(|| {
            controller.set_masked(vector.gsi(), true).unwrap();
            controller.set_masked(vector.gsi(), false).unwrap();
        });
    });
    group.finish();
}

fn ioapic(c: &mut Criterion) {
    let mut ioapic = Ioapic::new();
    let mut bus = RecordingBus {
        refuses: true,
        ..Default::default()
    };
    ioapic.write(0x00, &[0x10], &mut bus).unwrap();
    c.bench_function("IOAPIC register write", |b| {
        b.iter(|| {
            ioapic
                .write(0x10, black_box(&[0x30, 0, 1, 0]), &mut bus)
                .unwrap()
        });
    });
}

criterion_group!(benches, trigger, routes, ioapic);
criterion_main!(benches);
