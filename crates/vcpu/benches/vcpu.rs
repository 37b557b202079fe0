//! The round trip of an exit, the kick of an ioeventfd, and saving and restoring a vCPU.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use kvm_ioctls::IoEventAddress;
use strata_vcpu::test_utils::{CODE_ADDR, Irqchip, Mode, TestVm};
use strata_vcpu::{Action, ExitHandler, VcpuThread};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DONE_PORT: u16 = 0x11;
const KICK_PORT: u16 = 0x30;

/// Does nothing but say when the guest is done.
struct Bus(SyncSender<()>);

impl ExitHandler for Bus {
    fn pio_read(&self, _port: u16, _data: &mut [u8]) {}
    fn pio_write(&self, port: u16, _data: &[u8]) -> Action {
        if port == DONE_PORT {
            self.0.send(()).unwrap();
        }
        Action::Resume
    }
    fn mmio_read(&self, _addr: u64, _data: &mut [u8]) {}
    fn mmio_write(&self, _addr: u64, _data: &[u8]) -> Action {
        Action::Resume
    }
}

/// A guest that writes KICK_PORT as often as ECX says, and then DONE_PORT.
struct Guest {
    thread: VcpuThread,
    done: Receiver<()>,
    _vm: TestVm,
}

impl Guest {
    fn new(vm: TestVm) -> Self {
        let code = [
            0xe6, 0x30, // next: out KICK_PORT, al
            0x49, // dec ecx
            0x75, 0xfb, // jnz next
            0xe6, 0x11, // out DONE_PORT, al
            0xf4, // hlt
        ];
        let (sender, done) = sync_channel(1);
        let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
        let thread = VcpuThread::spawn(vcpu, Arc::new(Bus(sender))).unwrap();
        Self {
            thread,
            done,
            _vm: vm,
        }
    }

    fn write(&self, times: u64) -> Duration {
        let start = |vcpu: &mut strata_vcpu::Vcpu| {
            let mut regs = vcpu.fd().get_regs().unwrap();
            regs.rip = CODE_ADDR;
            regs.rcx = times;
            vcpu.fd().set_regs(&regs).unwrap();
            let state = kvm_bindings::kvm_mp_state::default();
            vcpu.fd().set_mp_state(state).unwrap();
        };
        self.thread.with_paused(start).unwrap();
        let begin = Instant::now();
        self.thread.resume().unwrap();
        self.done.recv().unwrap();
        let time = begin.elapsed();
        self.thread.pause().unwrap();
        time
    }
}

fn exits(c: &mut Criterion) {
    let guest = Guest::new(TestVm::new(Irqchip::Kernel));
    c.bench_function("exit round trip (port write)", |b| {
        b.iter_custom(|n| guest.write(n))
    });

    let vm = TestVm::new(Irqchip::Kernel);
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let no_match = kvm_ioctls::NoDatamatch;
    vm.vm()
        .register_ioevent(&kick, &IoEventAddress::Pio(KICK_PORT.into()), no_match)
        .unwrap();
    let guest = Guest::new(vm);
    c.bench_function("ioeventfd kick", |b| b.iter_custom(|n| guest.write(n)));
    assert!(kick.read().unwrap() > 0);
}

fn state(c: &mut Criterion) {
    let vm = TestVm::new(Irqchip::Kernel);
    let mut vcpu = vm.vcpu_with_code(&Mode::Protected, &[0xf4]);
    c.bench_function("vCPU state save", |b| {
        b.iter(|| black_box(vcpu.state(vm.host()).unwrap()));
    });
    let saved = vcpu.state(vm.host()).unwrap();
    c.bench_function("vCPU state restore", |b| {
        b.iter(|| vcpu.set_state(black_box(&saved), vm.host()).unwrap());
    });
}

fn pause(c: &mut Criterion) {
    let vm = TestVm::new(Irqchip::Kernel);
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &[0xeb, 0xfe]); // jmp .
    let thread = VcpuThread::spawn(vcpu, Arc::new(vm.recorder())).unwrap();
    c.bench_function("resume and pause", |b| {
        b.iter(|| {
            thread.resume().unwrap();
            thread.pause().unwrap();
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = exits, state, pause
}
criterion_main!(benches);
