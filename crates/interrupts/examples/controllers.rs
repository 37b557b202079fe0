//! Makes a controller of each kind on this host's KVM, and shows that an interrupt outlives its
//! mask.

use std::error::Error;
use std::sync::Arc;

use kvm_ioctls::Kvm;
use strata_interrupts::{Controller, Kind, MsiMessage};

fn main() -> Result<(), Box<dyn Error>> {
    let kvm = Kvm::new().map_err(|error| format!("cannot open /dev/kvm: {error}"))?;
    for kind in [Kind::InKernel, Kind::Split] {
        let vm = Arc::new(kvm.create_vm()?);
        let controller = Controller::new(Arc::clone(&vm), kind)?;
        let _vcpu = vm.create_vcpu(0)?;

        let vector = controller.msi()?;
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x41,
        };
        controller.set_messages(&[(vector.gsi(), message)])?;
        vector.trigger()?;
        println!(
            "{kind}: window {:x?}, MSI on GSI {}",
            controller.mmio_window(),
            vector.gsi()
        );
        println!("  masked: pending {}", controller.is_pending(vector.gsi())?);
        controller.set_masked(vector.gsi(), false)?;
        println!(
            "  unmasked: pending {}",
            controller.is_pending(vector.gsi())?
        );
    }
    Ok(())
}
