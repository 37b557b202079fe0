//! Payload guests on this machine's KVM: exits and their ends.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use strata_vcpu::test_utils::{Access, CODE_ADDR, Irqchip, Mode, Recorder, TestVm};
use strata_vcpu::{AbnormalExit, Cause, ExitReason, VcpuThread};

/// Runs `code` until its vCPU ends.
fn run(vm: &TestVm, mode: &Mode, code: &[u8]) -> (ExitReason, Arc<Recorder>) {
    let recorder = Arc::new(vm.recorder());
    let vcpu = vm.vcpu_with_code(mode, code);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    (thread.join(), recorder)
}

fn abnormal(reason: ExitReason) -> AbnormalExit {
    match reason {
        ExitReason::Abnormal(exit) => *exit,
        other => panic!("{other}"),
    }
}

#[test]
fn port_accesses_reach_the_handler_in_every_mode() {
    let code = [
        0xe4, 0x10, // in al, 0x10
        0xfe, 0xc0, // inc al
        0xe6, 0x11, // out 0x11, al
        0xf4, // hlt
    ];
    for mode in [Mode::Real, Mode::Protected, Mode::long()] {
        let vm = TestVm::new(Irqchip::None);
        let (reason, recorder) = run(&vm, &mode, &code);
        assert_eq!(reason, ExitReason::Halted, "{mode:?}");
        let expected = [
            Access::PioRead { port: 0x10, len: 1 },
            Access::PioWrite {
                port: 0x11,
                data: vec![Recorder::ANSWER[0] + 1],
            },
        ];
        assert_eq!(recorder.accesses(), expected, "{mode:?}");
    }
}

#[test]
fn string_port_accesses_come_one_element_at_a_time() {
    let vm = TestVm::new(Irqchip::None);
    let code = [
        0xfc, // cld
        0xbf, 0x00, 0x00, 0x08, 0x00, // mov edi, 0x80000
        0x66, 0xba, 0x10, 0x00, // mov dx, 0x10
        0xb9, 0x03, 0x00, 0x00, 0x00, // mov ecx, 3
        0xf3, 0x66, 0x6d, // rep insw
        0xbe, 0x00, 0x00, 0x08, 0x00, // mov esi, 0x80000
        0xb9, 0x03, 0x00, 0x00, 0x00, // mov ecx, 3
        0xf3, 0x66, 0x6f, // rep outsw
        0xf4, // hlt
    ];
    let (reason, recorder) = run(&vm, &Mode::Protected, &code);
    assert_eq!(reason, ExitReason::Halted);
    let read = Access::PioRead { port: 0x10, len: 2 };
    let write = Access::PioWrite {
        port: 0x10,
        data: Recorder::ANSWER[..2].to_vec(),
    };
    let expected = [
        [read.clone(), read.clone(), read],
        [write.clone(), write.clone(), write],
    ];
    assert_eq!(recorder.accesses(), expected.concat());
}

#[test]
fn accesses_where_no_memory_is_reach_the_handler() {
    let vm = TestVm::new(Irqchip::None);
    let code = [
        0xa1, 0x00, 0x00, 0x00, 0x10, // mov eax, [0x10000000]
        0x40, // inc eax
        0xa3, 0x08, 0x00, 0x00, 0x10, // mov [0x10000008], eax
        0xa0, 0x02, 0x00, 0x00, 0x10, // mov al, [0x10000002]
        0xa2, 0x03, 0x00, 0x00, 0x10, // mov [0x10000003], al
        0xf4, // hlt
    ];
    let (reason, recorder) = run(&vm, &Mode::Protected, &code);
    assert_eq!(reason, ExitReason::Halted);
    let [a, rest @ ..] = Recorder::ANSWER;
    let expected = [
        Access::MmioRead {
            addr: 0x1000_0000,
            len: 4,
        },
        Access::MmioWrite {
            addr: 0x1000_0008,
            data: vec![a + 1, rest[0], rest[1], rest[2]],
        },
        Access::MmioRead {
            addr: 0x1000_0002,
            len: 1,
        },
        Access::MmioWrite {
            addr: 0x1000_0003,
            data: vec![a],
        },
    ];
    assert_eq!(recorder.accesses(), expected);
}

#[test]
fn a_read_that_nobody_answers_returns_ones() {
    let vm = TestVm::new(Irqchip::None);
    let code = [
        0x31, 0xc0, // xor eax, eax
        0xe5, 0xf7, // in eax, EMPTY_PORT
        0xe7, 0x11, // out 0x11, eax
        0xf4, // hlt
    ];
    let (_, recorder) = run(&vm, &Mode::Protected, &code);
    assert_eq!(
        recorder.accesses(),
        [Access::PioWrite {
            port: 0x11,
            data: vec![0xff; 4]
        }]
    );
}

#[test]
fn a_write_can_end_the_vcpu() {
    let end = |port: u16| {
        let vm = TestVm::new(Irqchip::Kernel);
        let code = [0xe6, port as u8, 0xe6, 0x11, 0xeb, 0xfe]; // out port, al; out 0x11, al; jmp .
        let (reason, recorder) = run(&vm, &Mode::Real, &code);
        assert_eq!(recorder.accesses(), []);
        reason
    };
    assert_eq!(end(Recorder::SHUTDOWN_PORT), ExitReason::Shutdown);
    assert_eq!(end(Recorder::RESET_PORT), ExitReason::Reset);
}

#[test]
fn a_triple_fault_is_reported() {
    let vm = TestVm::new(Irqchip::Kernel);
    let code = [
        0x0f, 0x01, 0x1d, 0x0a, 0x00, 0x01, 0x00, // lidt [CODE_ADDR + 10]
        0x0f, 0x0b, // ud2
        0x90, // nop
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // limit 0, base 0
    ];
    let (reason, _) = run(&vm, &Mode::Protected, &code);
    let exit = abnormal(reason);
    assert_eq!(exit.cause, Cause::TripleFault);
    assert!(
        exit.to_string().starts_with("vcpu0: triple fault"),
        "{exit}"
    );
    assert!(exit.to_string().contains("\nrip "), "{exit}");
}

#[test]
fn code_where_no_memory_is_ends_with_a_report() {
    let vm = TestVm::new(Irqchip::Kernel);
    // jmp 0x20000000
    let code = [0xb8, 0x00, 0x00, 0x00, 0x20, 0xff, 0xe0];
    let (reason, _) = run(&vm, &Mode::Protected, &code);
    let exit = abnormal(reason);
    assert!(
        matches!(exit.cause, Cause::InternalError { suberror: 1, .. }),
        "{exit}"
    );
    assert_eq!(exit.registers.unwrap().regs.rip, 0x2000_0000);
    assert_eq!(exit.instruction, []);
    assert!(
        exit.to_string()
            .contains("no memory at the instruction pointer"),
        "{exit}"
    );
}

#[test]
fn wild_accesses_are_served_and_end_with_the_guest() {
    let vm = TestVm::new(Irqchip::Kernel);
    // Reads and writes 2000 pseudo-random ports and addresses above 256 MiB.
    let code = [
        0xbf, 0xd0, 0x07, 0x00, 0x00, // mov edi, 2000
        0xbb, 0x39, 0x30, 0x00, 0x00, // mov ebx, 12345
        // next:
        0x69, 0xdb, 0x6d, 0x4e, 0xc6, 0x41, // imul ebx, ebx, 0x41c64e6d
        0x81, 0xc3, 0x39, 0x30, 0x00, 0x00, // add ebx, 0x3039
        0x89, 0xde, // mov esi, ebx
        0x81, 0xce, 0x00, 0x00, 0x00, 0x10, // or esi, 0x10000000
        0x81, 0xe6, 0xff, 0xff, 0xff, 0x7f, // and esi, 0x7fffffff
        0x89, 0x1e, // mov [esi], ebx
        0x03, 0x06, // add eax, [esi]
        0x89, 0xda, // mov edx, ebx
        0x80, 0xce, 0x80, // or dh, 0x80
        0xed, // in eax, dx
        0xef, // out dx, eax
        0x4f, // dec edi
        0x75, 0xd8, // jnz next
        0xe6, 0xf4, // out SHUTDOWN_PORT, al
    ];
    let (reason, recorder) = run(&vm, &Mode::Protected, &code);
    assert_eq!(reason, ExitReason::Shutdown);
    assert!(
        recorder.accesses().len() >= 8000,
        "{}",
        recorder.accesses().len()
    );
}

#[test]
fn the_report_shows_the_instruction_that_kvm_cannot_emulate() {
    let vm = TestVm::new(Irqchip::Kernel);
    // An instruction that no KVM emulates, on an operand that is not memory: fld qword [MMIO].
    let code = [0xdd, 0x05, 0x00, 0x00, 0x00, 0x10, 0x90, 0x90];
    let (reason, _) = run(&vm, &Mode::Protected, &code);
    let exit = abnormal(reason);
    assert!(
        matches!(exit.cause, Cause::InternalError { suberror: 1, .. }),
        "{exit}"
    );
    assert_eq!(exit.registers.unwrap().regs.rip, CODE_ADDR);
    assert_eq!(exit.instruction[..8], code);
    assert!(
        exit.to_string()
            .ends_with(" dd 05 00 00 00 10 90 90 00 00 00 00 00 00 00"),
        "{exit}"
    );
}
