//! Moving a vCPU to another VM, and states that nobody saved.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use strata_vcpu::arch::{CpuidEntry, MsrEntry};
use strata_vcpu::test_utils::{
    Access, CODE_ADDR, ENABLE_X2APIC, Irqchip, LongMode, Mode, Recorder, TestVm,
};
use strata_vcpu::{Error, Vcpu, VcpuState, VcpuThread};

fn spawn(vm: &TestVm, vcpu: Vcpu) -> (VcpuThread, Arc<Recorder>) {
    let recorder = Arc::new(vm.recorder());
    (
        VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap(),
        recorder,
    )
}

/// Ends the thread's vCPU and continues it in a new VM, its state having been written and read.
fn moved(vm: &TestVm, thread: VcpuThread, irqchip: Irqchip) -> (TestVm, VcpuThread, Arc<Recorder>) {
    thread.pause().unwrap();
    let state = thread
        .with_paused(|vcpu| vcpu.state(vm.host()).unwrap())
        .unwrap();
    let json = serde_json::to_string(&state).unwrap();
    let next = TestVm::new(irqchip);
    next.copy_memory_from(vm);
    let mut vcpu = Vcpu::new(next.vm(), 0).unwrap();
    vcpu.set_state(&serde_json::from_str(&json).unwrap(), next.host())
        .unwrap();
    let (thread, recorder) = spawn(&next, vcpu);
    thread.resume().unwrap();
    (next, thread, recorder)
}

/// Starts the endless loop of `code`, moves it to a new VM a few times on its way, and returns its
/// state at the `pause` with which its loop begins, `head` bytes from the start.
fn state_after_moves(mode: &Mode, code: &[u8], head: u64) -> VcpuState {
    let mut vm = TestVm::new(Irqchip::Kernel);
    let (mut thread, _) = spawn(&vm, vm.vcpu_with_code(mode, code));
    thread.resume().unwrap();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(5));
        (vm, thread, _) = moved(&vm, thread, Irqchip::Kernel);
    }
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(1));
        thread.pause().unwrap();
        let state = thread
            .with_paused(|vcpu| vcpu.state(vm.host()).unwrap())
            .unwrap();
        let offset = state.regs.rip.wrapping_sub(CODE_ADDR + head);
        // Before or behind `pause`, where nothing of the round is done.
        if (offset == 0 || offset == 2) && state.regs.rcx > 100 {
            return state;
        }
        thread.resume().unwrap();
    }
    panic!("the guest does not come to the head of its loop");
}

#[test]
fn a_computation_in_general_registers_survives_moves() {
    let code = [
        0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
        0x31, 0xc9, // xor ecx, ecx
        0xf3, 0x90, // next: pause
        0x48, 0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00, // imul rax, rax, 0x19660d
        0x48, 0x05, 0x5f, 0xf3, 0x6e, 0x3c, // add rax, 0x3c6ef35f
        0xff, 0xc1, // inc ecx
        0xeb, 0xed, // jmp next
    ];
    let regs = state_after_moves(&Mode::long(), &code, 7).regs;
    let round = |x: u64, _| x.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
    assert_eq!(
        regs.rax,
        (0..regs.rcx).fold(1, round),
        "after {} rounds",
        regs.rcx
    );
}

#[test]
fn a_computation_in_vector_registers_survives_moves() {
    let code = [
        0xb8, 0x78, 0x56, 0x34, 0x12, // mov eax, 0x12345678
        0x66, 0x0f, 0x6e, 0xf8, // movd xmm7, eax
        0x31, 0xc9, // xor ecx, ecx
        0xf3, 0x90, // next: pause
        0x66, 0x44, 0x0f, 0xd4, 0xc7, // paddq xmm8, xmm7
        0x66, 0x41, 0x0f, 0xef, 0xf8, // pxor xmm7, xmm8
        0xff, 0xc1, // inc ecx
        0xeb, 0xf0, // jmp next
    ];
    let user = Mode::Long(LongMode {
        user: true,
        handlers: vec![],
    });
    let state = state_after_moves(&user, &code, 11);
    let (mut xor, mut sum) = (0x1234_5678u64, 0u64);
    for _ in 0..state.regs.rcx {
        sum = sum.wrapping_add(xor);
        xor ^= sum;
    }
    // The XMM registers start at byte 160 of the XSAVE area (SDM volume 1, table 10-2).
    let xmm = |n: usize| &state.xsave[160 + 16 * n..][..8];
    assert_eq!(xmm(7), xor.to_le_bytes(), "after {} rounds", state.regs.rcx);
    assert_eq!(xmm(8), sum.to_le_bytes());
}

/// A guest that enables its APIC and halts; interrupt 0x40 lets it write port 0x31, then 0x32.
fn waiting_for_interrupt() -> (Mode, Vec<u8>) {
    let mut code = ENABLE_X2APIC.to_vec();
    code.extend([
        0xe6, 0x30, // out 0x30, al
        0xfb, // sti
        0xf4, // wait: hlt
        0xe6, 0x32, // out 0x32, al: awake
        0xeb, 0xfb, // jmp wait
    ]);
    code.resize(0x100, 0x90);
    code.extend([
        0xb9, 0x0b, 0x08, 0x00, 0x00, // mov ecx, IA32_X2APIC_EOI
        0x31, 0xc0, // xor eax, eax
        0x31, 0xd2, // xor edx, edx
        0x0f, 0x30, // wrmsr
        0xe6, 0x31, // out 0x31, al
        0x48, 0xcf, // iretq
    ]);
    (
        Mode::Long(LongMode {
            user: false,
            handlers: vec![(0x40, CODE_ADDR + 0x100)],
        }),
        code,
    )
}

#[test]
fn a_halted_vcpu_wakes_in_another_vm() {
    for irqchip in [Irqchip::Kernel, Irqchip::Split] {
        let vm = TestVm::new(irqchip);
        let (mode, code) = waiting_for_interrupt();
        let (thread, recorder) = spawn(&vm, vm.vcpu_with_code(&mode, &code));
        thread.resume().unwrap();
        recorder.wait_for(&Access::PioWrite {
            port: 0x30,
            data: vec![0xff],
        });
        std::thread::sleep(Duration::from_millis(20));

        let (vm, thread, recorder) = moved(&vm, thread, irqchip);
        assert_eq!(recorder.accesses(), []);
        let msi = kvm_bindings::kvm_msi {
            address_lo: 0xfee0_0000,
            data: 0x40,
            ..Default::default()
        };
        vm.vm().signal_msi(msi).unwrap();
        recorder.wait_for(&Access::PioWrite {
            port: 0x31,
            data: vec![0],
        });
        assert_eq!(
            recorder.accesses()[0],
            Access::PioWrite {
                port: 0x31,
                data: vec![0]
            }
        );
        drop(thread);
    }
}

#[test]
fn an_application_processor_keeps_waiting_in_another_vm() {
    let vm = TestVm::new(Irqchip::Kernel);
    let _first = vm.vcpu(0);
    let state = vm.vcpu(1).state(vm.host()).unwrap();
    let next = TestVm::new(Irqchip::Kernel);
    let _first = next.vcpu(0);
    let mut vcpu = Vcpu::new(next.vm(), 1).unwrap();
    vcpu.set_state(&state, next.host()).unwrap();
    assert_eq!(vcpu.state(next.host()).unwrap().mp_state, state.mp_state);
    assert_eq!(state.mp_state, kvm_bindings::KVM_MP_STATE_UNINITIALIZED);
}

const SYSENTER_CS: u32 = 0x174;

#[test]
fn a_state_can_be_taken_back_on_the_same_vcpu() {
    let vm = TestVm::new(Irqchip::Kernel);
    let code = [0xeb, 0xfe]; // jmp .
    let (thread, _) = spawn(&vm, vm.vcpu_with_code(&Mode::long(), &code));
    let before = thread
        .with_paused(|vcpu| vcpu.state(vm.host()).unwrap())
        .unwrap();
    thread.resume().unwrap();
    thread.pause().unwrap();
    let mut changed = before.clone();
    changed.regs.rbx = 7;
    changed.debug_regs.db[0] = 0x1234;
    for msr in changed
        .msrs
        .iter_mut()
        .filter(|msr| msr.index == SYSENTER_CS)
    {
        msr.value = 0x50;
    }
    for state in [&changed, &before] {
        thread
            .with_paused(|vcpu| vcpu.set_state(state, vm.host()).unwrap())
            .unwrap();
        let now = thread
            .with_paused(|vcpu| vcpu.state(vm.host()).unwrap())
            .unwrap();
        assert_eq!(now.regs, state.regs);
        assert_eq!(now.sregs, state.sregs);
        assert_eq!(now.xsave, state.xsave);
        assert_eq!(now.debug_regs.db, state.debug_regs.db);
        let sysenter = |s: &VcpuState| s.msrs.iter().find(|m| m.index == SYSENTER_CS).copied();
        assert!(sysenter(&now).is_some());
        assert_eq!(sysenter(&now), sysenter(state));
    }
}

/// Changes a good state and tries to restore it.
fn refused(change: impl FnOnce(&mut VcpuState)) -> Error {
    let vm = TestVm::new(Irqchip::Kernel);
    let mut state = vm
        .vcpu_with_code(&Mode::long(), &[])
        .state(vm.host())
        .unwrap();
    change(&mut state);
    let next = TestVm::new(Irqchip::Kernel);
    let mut vcpu = Vcpu::new(next.vm(), 0).unwrap();
    vcpu.set_state(&state, next.host()).unwrap_err()
}

#[test]
fn damaged_states_are_refused_by_name() {
    let reason = |change: fn(&mut VcpuState)| match refused(change) {
        Error::InvalidState { vcpu: 0, reason } => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(|s| s.xsave.truncate(100)), "too small an XSAVE area");
    assert_eq!(
        reason(|s| s.xsave.resize(2 << 20, 0)),
        "too large an XSAVE area"
    );
    assert_eq!(
        reason(|s| s.xsave.resize(1 << 20, 1)),
        "registers in the XSAVE area that this host does not have"
    );
    assert_eq!(reason(|s| s.mp_state = 99), "an unknown run state");
    assert_eq!(reason(|s| s.msrs = vec![s.msrs[0]; 5000]), "too many MSRs");
    assert_eq!(reason(|s| s.xcrs.nr_xcrs = 1000), "too many XCRs");
    assert_eq!(
        reason(|s| s.cpuid = Default::default()),
        "the APIC id of another vCPU"
    );
    assert_eq!(
        reason(|s| s.cpuid = vec![CpuidEntry::default(); 500].into_iter().collect()),
        "too many CPUID entries"
    );
}

#[test]
fn refused_registers_are_named() {
    let msr = |s: &mut VcpuState| {
        s.msrs.push(MsrEntry {
            index: 0xdead_beef,
            value: 5,
        })
    };
    let error = refused(msr);
    assert!(
        matches!(
            error,
            Error::MsrWrite {
                msr: 0xdead_beef,
                value: 5,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(|s| s.sregs.cr0 = 1 << 31);
    assert!(
        matches!(
            error,
            Error::Vcpu {
                request: "KVM_SET_SREGS",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn features_that_the_host_lacks_are_named() {
    let error = refused(|s| {
        let mut entries = s.cpuid.entries().to_vec();
        entries.retain(|e| e.function != 7);
        entries.push(CpuidEntry::subleaf(7, 0, [0, 0, 0, 1 << 31]));
        s.cpuid = entries.into_iter().collect();
    });
    let Error::MissingCpuFeatures { names, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(names, ["cpuid 0x7.0 Edx bit 31"]);
}
