//! Pausing, kicking and ending the thread of a vCPU.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use strata_vcpu::test_utils::{Access, CODE_ADDR, Irqchip, Mode, Recorder, TestVm};
use strata_vcpu::{Action, Error, ExitHandler, ExitReason, VcpuThread};

/// `out 0x11, al`: tells the test that the guest runs.
const STARTED: [u8; 2] = [0xe6, 0x11];
const JMP_SELF: [u8; 2] = [0xeb, 0xfe];

/// A guest that has begun to run `code`.
fn started(vm: &TestVm, mode: &Mode, code: &[u8]) -> VcpuThread {
    let recorder = Arc::new(vm.recorder());
    let code = [&STARTED, code].concat();
    let thread = VcpuThread::spawn(vm.vcpu_with_code(mode, &code), Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    recorder.wait_for(&Access::PioWrite {
        port: 0x11,
        data: vec![0],
    });
    thread
}

fn stop(thread: VcpuThread) {
    thread.stop().unwrap();
    assert_eq!(thread.join(), ExitReason::Stopped);
}

fn rip(thread: &VcpuThread) -> u64 {
    thread
        .with_paused(|vcpu| vcpu.fd().get_regs().unwrap().rip)
        .unwrap()
}

#[test]
fn a_tight_loop_can_be_paused_again_and_again() {
    for mode in [Mode::Protected, Mode::long()] {
        let vm = TestVm::new(Irqchip::Kernel);
        let thread = started(&vm, &mode, &JMP_SELF);
        for _ in 0..100 {
            thread.pause().unwrap();
            assert_eq!(rip(&thread), CODE_ADDR + 2);
            thread.resume().unwrap();
        }
        stop(thread);
    }
}

#[test]
fn a_halted_vcpu_can_be_paused() {
    let vm = TestVm::new(Irqchip::Kernel);
    let thread = started(&vm, &Mode::Protected, &[0xf4]); // hlt
    let halted = |thread: &VcpuThread| {
        thread.pause().unwrap();
        let halted = rip(thread) == CODE_ADDR + 3;
        thread.resume().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        halted
    };
    let tries = (0..1000).take_while(|_| !halted(&thread)).count();
    assert!(tries < 1000, "the guest does not come to its hlt");
    for _ in 0..20 {
        assert!(halted(&thread));
    }
    stop(thread);
}

#[test]
fn a_vcpu_that_waits_for_its_sipi_can_be_paused() {
    let vm = TestVm::new(Irqchip::Kernel);
    let _first = vm.vcpu(0);
    let thread = VcpuThread::spawn(vm.vcpu(1), Arc::new(vm.recorder())).unwrap();
    for _ in 0..20 {
        thread.resume().unwrap();
        thread.pause().unwrap();
        let state = thread
            .with_paused(|vcpu| vcpu.fd().get_mp_state().unwrap())
            .unwrap();
        assert_eq!(state.mp_state, kvm_bindings::KVM_MP_STATE_UNINITIALIZED);
    }
    stop(thread);
}

#[test]
fn an_idle_vcpu_uses_no_processor_time() {
    let vm = TestVm::new(Irqchip::Kernel);
    let _first = vm.vcpu(0);
    let waiting = VcpuThread::spawn(vm.vcpu(1), Arc::new(vm.recorder())).unwrap();
    waiting.resume().unwrap();
    let vm = TestVm::new(Irqchip::Kernel);
    let halted = started(&vm, &Mode::Protected, &[0xf4]); // hlt
    std::thread::sleep(Duration::from_millis(300));
    for name in ["vcpu0", "vcpu1"] {
        let ticks = processor_ticks(&task(name));
        assert!(ticks <= 5, "{name} used {ticks} ticks");
    }
    stop(waiting);
    stop(halted);
}

/// The directory in /proc of this process' thread of that name.
fn task(name: &str) -> std::path::PathBuf {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .unwrap()
}

/// User and system time in ticks of 10 ms (proc(5), fields 14 and 15 of stat).
fn processor_ticks(task: &std::path::Path) -> u64 {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_paused_vcpu_has_no_half_done_access() {
    let vm = TestVm::new(Irqchip::Kernel);
    let recorder = Arc::new(vm.recorder());
    let code = [
        0x31, 0xdb, // xor ebx, ebx
        0xe4, 0xf6, // next: in al, COUNT_PORT
        0x43, // inc ebx
        0xeb, 0xfb, // jmp next
    ];
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    let mut pauses = 0;
    while pauses < 300 || recorder.count() < 1000 {
        thread.resume().unwrap();
        std::thread::sleep(Duration::from_micros(20));
        thread.pause().unwrap();
        let regs = thread
            .with_paused(|vcpu| vcpu.fd().get_regs().unwrap())
            .unwrap();
        let not_yet_counted = u64::from(regs.rip == CODE_ADDR + 4);
        assert_eq!(
            recorder.count(),
            regs.rbx + not_yet_counted,
            "at {:#x}",
            regs.rip
        );
        pauses += 1;
        assert!(pauses < 50_000, "the guest hardly runs");
    }
    stop(thread);
}

#[test]
fn kicks_do_not_disturb_the_guest() {
    let vm = TestVm::new(Irqchip::Kernel);
    let recorder = Arc::new(vm.recorder());
    let code = [
        0xb9, 0xb8, 0x0b, 0x00, 0x00, // mov ecx, 3000
        0xe4, 0xf6, // next: in al, COUNT_PORT
        0x49, // dec ecx
        0x75, 0xfb, // jnz next
        0xe6, 0xf4, // out SHUTDOWN_PORT, al
    ];
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    while !thread.has_ended() {
        thread.kick().unwrap();
        std::thread::sleep(Duration::from_micros(20));
    }
    assert_eq!(thread.join(), ExitReason::Shutdown);
    assert_eq!(recorder.count(), 3000);
}

#[test]
fn a_pause_returns_when_the_vcpu_ends_instead() {
    for _ in 0..100 {
        let vm = TestVm::new(Irqchip::Kernel);
        let code = [0xe6, Recorder::SHUTDOWN_PORT as u8];
        let vcpu = vm.vcpu_with_code(&Mode::Real, &code);
        let thread = VcpuThread::spawn(vcpu, Arc::new(vm.recorder())).unwrap();
        thread.resume().unwrap();
        thread.pause().unwrap();
        let _ = thread.resume();
        assert_eq!(thread.join(), ExitReason::Shutdown);
    }
}

#[test]
fn a_running_vcpu_cannot_be_looked_at() {
    let vm = TestVm::new(Irqchip::Kernel);
    let thread = started(&vm, &Mode::Real, &JMP_SELF);
    assert!(matches!(
        thread.with_paused(|_| ()),
        Err(Error::NotPaused { vcpu: 0 })
    ));
    stop(thread);
}

#[test]
fn an_ended_vcpu_can_be_looked_at_and_not_resumed() {
    let vm = TestVm::new(Irqchip::Kernel);
    let code = [0xe6, Recorder::SHUTDOWN_PORT as u8];
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::new(vm.recorder())).unwrap();
    thread.resume().unwrap();
    while !thread.has_ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(rip(&thread) <= CODE_ADDR + 2);
    assert!(matches!(thread.resume(), Err(Error::Ended { vcpu: 0 })));
    thread.pause().unwrap();
}

#[test]
fn stopping_wins_over_resuming() {
    let vm = TestVm::new(Irqchip::Kernel);
    let thread = started(&vm, &Mode::Real, &JMP_SELF);
    thread.stop().unwrap();
    assert!(matches!(thread.resume(), Err(Error::Ended { .. })));
    thread.pause().unwrap();
    assert_eq!(thread.join(), ExitReason::Stopped);
}

#[test]
fn dropping_the_thread_ends_the_vcpu() {
    let vm = TestVm::new(Irqchip::Kernel);
    let recorder = Arc::new(vm.recorder());
    let vcpu = vm.vcpu_with_code(&Mode::Real, &JMP_SELF);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    drop(thread);
    assert_eq!(Arc::strong_count(&recorder), 1);
}

#[test]
fn only_the_kick_reaches_the_threads_signal_handlers() {
    let vm = TestVm::new(Irqchip::Kernel);
    let thread = started(&vm, &Mode::Real, &JMP_SELF);
    let status = fs::read_to_string(task("vcpu0").join("status")).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:\t"))
        .unwrap();
    let blocked = u64::from_str_radix(mask, 16).unwrap();
    let is_blocked = |signal: i32| blocked >> (signal - 1) & 1 != 0;
    assert!(
        [libc::SIGTERM, libc::SIGINT, libc::SIGWINCH]
            .into_iter()
            .all(is_blocked),
        "{mask}"
    );
    assert!(!is_blocked(libc::SIGRTMIN()), "{mask}");
    assert!(!is_blocked(libc::SIGSEGV), "{mask}");
    stop(thread);
}

/// A handler with a defect.
struct Panicking;

impl ExitHandler for Panicking {
    fn pio_read(&self, _port: u16, _data: &mut [u8]) {}
    fn pio_write(&self, _port: u16, _data: &[u8]) -> Action {
        panic!("a defect of the handler")
    }
    fn mmio_read(&self, _addr: u64, _data: &mut [u8]) {}
    fn mmio_write(&self, _addr: u64, _data: &[u8]) -> Action {
        Action::Resume
    }
}

#[test]
#[should_panic(expected = "a defect of the handler")]
fn a_panic_of_the_handler_leaves_nobody_waiting() {
    let vm = TestVm::new(Irqchip::Kernel);
    let vcpu = vm.vcpu_with_code(&Mode::Real, &STARTED);
    let thread = VcpuThread::spawn(vcpu, Arc::new(Panicking)).unwrap();
    thread.resume().unwrap();
    while !thread.has_ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.pause().unwrap();
    assert!(matches!(
        thread.with_paused(|_| ()),
        Err(Error::NotPaused { .. })
    ));
    thread.join();
}

#[test]
fn an_ended_vcpu_is_revived_behind_its_access() {
    let vm = TestVm::new(Irqchip::Kernel);
    let code = [
        0x43, // next: inc ebx
        0xe6,
        Recorder::SHUTDOWN_PORT as u8, // out SHUTDOWN_PORT, al
        0xeb,
        0xfb, // jmp next
    ];
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::new(vm.recorder())).unwrap();
    let rbx = |thread: &VcpuThread| {
        thread
            .with_paused(|vcpu| vcpu.fd().get_regs().unwrap().rbx)
            .unwrap()
    };
    let first = rbx(&thread);
    for round in 1..=20 {
        thread.resume().unwrap();
        while !thread.has_ended() {
            std::thread::sleep(Duration::from_micros(100));
        }
        thread.revive(Arc::new(vm.recorder())).unwrap();
        assert!(!thread.has_ended());
        // The instruction is behind it, and nothing more has run.
        assert_eq!(rip(&thread), CODE_ADDR + 3);
        assert_eq!(rbx(&thread), first + round);
    }
    // Of no effect on one that has not ended.
    thread.revive(Arc::new(vm.recorder())).unwrap();
    stop(thread);
}
