//! Runs a guest that writes a line to a port, and prints what it wrote.

use std::sync::Arc;

use strata_vcpu::test_utils::{Access, Irqchip, Mode, TestVm};
use strata_vcpu::{Error, VcpuThread};

const TEXT: &[u8] = b"Hello from the guest\n";

fn main() -> Result<(), Error> {
    let vm = TestVm::new(Irqchip::None);
    let len = TEXT.len() as u8;
    let mut code = vec![
        0xbe, 0x12, 0x00, 0x01, 0x00, // mov esi, the text
        0xb9, len, 0x00, 0x00, 0x00, // mov ecx, its length
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xf3, 0x6e, // rep outsb
        0xe6, 0xf4, // out SHUTDOWN_PORT, al
    ];
    code.extend(TEXT);

    let recorder = Arc::new(vm.recorder());
    let vcpu = vm.vcpu_with_code(&Mode::Protected, &code);
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder))?;
    thread.resume()?;
    let reason = thread.join();

    for access in recorder.accesses() {
        if let Access::PioWrite { data, .. } = access {
            print!("{}", String::from_utf8_lossy(&data));
        }
    }
    println!("vcpu0: {reason}");
    Ok(())
}
