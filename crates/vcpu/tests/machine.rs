//! Several vCPUs, eventfds and interrupts.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi};
use kvm_ioctls::IoEventAddress;
use strata_vcpu::test_utils::{Access, CODE_ADDR, ENABLE_X2APIC, Irqchip, LongMode, Mode, TestVm};
use strata_vcpu::{ExitReason, VcpuThread};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[test]
fn a_second_vcpu_starts_by_init_and_sipi() {
    for irqchip in [Irqchip::Kernel, Irqchip::Split] {
        let vm = TestVm::new(irqchip);
        let second = [
            0xb8, 0x00, 0x80, // mov ax, 0x8000
            0x8e, 0xd8, // mov ds, ax
            0xb0, 0x77, // mov al, 0x77
            0xe6, 0x12, // out 0x12, al
            0xc6, 0x06, 0x00, 0x00, 0x5a, // mov byte [0x80000], 0x5a
            0xfa, // cli
            0xf4, // hlt
        ];
        vm.write(0x2_0000, &second);
        let mut first = ENABLE_X2APIC.to_vec();
        first.extend([
            0xb9, 0x30, 0x08, 0x00, 0x00, // mov ecx, IA32_X2APIC_ICR
            0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, APIC id 1
            0xb8, 0x00, 0x45, 0x00, 0x00, // mov eax, INIT
            0x0f, 0x30, // wrmsr
            0xb8, 0x20, 0x46, 0x00, 0x00, // mov eax, SIPI to 0x20000
            0x0f, 0x30, // wrmsr
            0xf3, 0x90, // wait: pause
            0x80, 0x3c, 0x25, 0x00, 0x00, 0x08, 0x00, 0x5a, // cmp byte [0x80000], 0x5a
            0x75, 0xf4, // jne wait
            0xe6, 0xf4, // out SHUTDOWN_PORT, al
        ]);
        let recorder = Arc::new(vm.recorder());
        let first = vm.vcpu_with_code(&Mode::long(), &first);
        let first = VcpuThread::spawn(first, Arc::clone(&recorder)).unwrap();
        let second = VcpuThread::spawn(vm.vcpu(1), Arc::clone(&recorder)).unwrap();
        second.resume().unwrap();
        first.resume().unwrap();
        assert_eq!(first.join(), ExitReason::Shutdown);
        assert_eq!(
            recorder.accesses(),
            [Access::PioWrite {
                port: 0x12,
                data: vec![0x77]
            }]
        );
        second.stop().unwrap();
        assert_eq!(second.join(), ExitReason::Stopped);
    }
}

#[test]
fn writes_to_an_ioeventfd_do_not_exit() {
    let vm = TestVm::new(Irqchip::Kernel);
    let port = EventFd::new(EFD_NONBLOCK).unwrap();
    let address = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.vm()
        .register_ioevent(&port, &IoEventAddress::Pio(0x30), 0xaau8)
        .unwrap();
    let mmio = IoEventAddress::Mmio(0x1000_0000);
    vm.vm()
        .register_ioevent(&address, &mmio, kvm_ioctls::NoDatamatch)
        .unwrap();
    let code = [
        0xb0, 0xaa, // mov al, 0xaa
        0xe6, 0x30, // out 0x30, al
        0xe6, 0x30, // out 0x30, al
        0xa3, 0x00, 0x00, 0x00, 0x10, // mov [0x10000000], eax
        0xb0, 0xab, // mov al, 0xab: another value, which does exit
        0xe6, 0x30, // out 0x30, al
        0xe6, 0xf4, // out SHUTDOWN_PORT, al
    ];
    let recorder = Arc::new(vm.recorder());
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    assert_eq!(thread.join(), ExitReason::Shutdown);
    assert_eq!((port.read().unwrap(), address.read().unwrap()), (2, 1));
    assert_eq!(
        recorder.accesses(),
        [Access::PioWrite {
            port: 0x30,
            data: vec![0xab]
        }]
    );
}

#[test]
fn the_end_of_a_level_interrupt_reaches_the_handler() {
    const VECTOR: u8 = 0x40;
    const LEVEL: u32 = 1 << 15;
    let vm = TestVm::new(Irqchip::Split);
    let mut route = kvm_irq_routing_entry {
        gsi: 5,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi.address_lo = 0xfee0_0000;
    route.u.msi.data = LEVEL | u32::from(VECTOR);
    let mut code = ENABLE_X2APIC.to_vec();
    code.extend([
        0xe6, 0x30, // out 0x30, al
        0xfb, // sti
        0xf4, // wait: hlt
        0xeb, 0xfd, // jmp wait
    ]);
    code.resize(0x100, 0x90);
    code.extend([
        0xb9, 0x0b, 0x08, 0x00, 0x00, // mov ecx, IA32_X2APIC_EOI
        0x31, 0xc0, // xor eax, eax
        0x31, 0xd2, // xor edx, edx
        0x0f, 0x30, // wrmsr
        // An exit of its own: PVM would emulate up to the next hlt before it looks for the EOI.
        0xe6, 0x31, // out 0x31, al
        0x48, 0xcf, // iretq
    ]);
    let mode = Mode::Long(LongMode {
        user: false,
        handlers: vec![(VECTOR, CODE_ADDR + 0x100)],
    });
    let recorder = Arc::new(vm.recorder());
    let vcpu = vm.vcpu_with_code(&mode, &code);
    vm.vm()
        .set_gsi_routing(&KvmIrqRouting::from_entries(&[route]).unwrap())
        .unwrap();
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    thread.resume().unwrap();
    recorder.wait_for(&Access::PioWrite {
        port: 0x30,
        data: vec![0xff],
    });
    let data = LEVEL | u32::from(VECTOR);
    vm.vm()
        .signal_msi(kvm_msi {
            address_lo: 0xfee0_0000,
            data,
            ..Default::default()
        })
        .unwrap();
    recorder.wait_for(&Access::IoapicEoi { vector: VECTOR });
}
