//! The one form in which an interrupt travels: a message-signalled interrupt.

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;

use crate::Error;

/// A message-signalled interrupt: a 32-bit write to an address that the platform watches.
///
/// On x86 the address names the destination and the data the vector and the delivery mode
/// (SDM volume 3, "Message Signalled Interrupts"). Both values may come from a guest: nothing
/// here interprets them, and KVM ignores what it does not understand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiMessage {
    /// Guest-physical address of the write.
    pub address: u64,
    /// Value of the write.
    pub data: u32,
}

impl MsiMessage {
    /// The lower half of the address, as PCI's message address register holds it.
    pub const fn address_lo(self) -> u32 {
        self.address as u32
    }

    /// The upper half of the address, as PCI's message upper address register holds it.
    pub const fn address_hi(self) -> u32 {
        (self.address >> 32) as u32
    }
}

/// Sends `message` at once, and says whether a local APIC accepted it.
pub(crate) fn signal_msi(vm: &VmFd, message: MsiMessage) -> Result<bool, Error> {
    let msi = kvm_msi {
        address_lo: message.address_lo(),
        address_hi: message.address_hi(),
        data: message.data,
        ..Default::default()
    };
    match vm.signal_msi(msi) {
        Ok(delivered) => Ok(delivered > 0),
        Err(source) => Err(Error::SignalMsi {
            address: message.address,
            data: message.data,
            source,
        }),
    }
}
