//! x86-64: local APICs in KVM, and one IOAPIC either there (with the PICs) or here.

mod irqchip;

pub use irqchip::{KernelChips, KernelIoapicState, PicState};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC,
    kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{Cap, VmFd};

use crate::gsi::GsiTable;
use crate::ioapic::{self, IOAPIC_BASE, IOAPIC_SIZE, Ioapic, IoapicBus, IoapicState, PinRoute};
use crate::msi::signal_msi;
use crate::{Error, Kind, MsiMessage};

/// Pins of the IOAPIC; GSI N is pin N.
pub(crate) const PINS: u32 = ioapic::PINS as u32;

/// Guest-physical base and bytes of the registers that the userspace part serves, if any.
pub(crate) const fn mmio_window(kind: Kind) -> Option<(u64, u64)> {
    match kind {
        Kind::InKernel => None,
        Kind::Split => Some((IOAPIC_BASE, IOAPIC_SIZE)),
    }
}

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A pin of the in-kernel IOAPIC. None leads to the PICs: no platform of ours uses them, and
    /// after reset KVM lets them interrupt vCPU 0.
    Pin(u32),
    /// A message.
    Msi(MsiMessage),
}

impl Route {
    /// The entry of KVM's routing table.
    pub(crate) fn to_kvm(self, gsi: u32) -> kvm_irq_routing_entry {
        let (type_, u) = match self {
            Self::Pin(pin) => (
                KVM_IRQ_ROUTING_IRQCHIP,
                kvm_irq_routing_entry__bindgen_ty_1 {
                    irqchip: kvm_irq_routing_irqchip {
                        irqchip: KVM_IRQCHIP_IOAPIC,
                        pin,
                    },
                },
            ),
            Self::Msi(message) => (
                KVM_IRQ_ROUTING_MSI,
                kvm_irq_routing_entry__bindgen_ty_1 {
                    msi: kvm_irq_routing_msi {
                        address_lo: message.address_lo(),
                        address_hi: message.address_hi(),
                        data: message.data,
                        ..Default::default()
                    },
                },
            ),
        };
        kvm_irq_routing_entry {
            gsi,
            type_,
            u,
            ..Default::default()
        }
    }
}

/// The chips of a controller, as saved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ChipState {
    /// Of [`Kind::InKernel`].
    InKernel(KernelChips),
    /// Of [`Kind::Split`].
    Split(IoapicState),
}

/// The controller of one VM.
#[derive(Debug)]
pub(crate) enum Chips {
    InKernel,
    Split(Box<Ioapic>),
}

impl Chips {
    pub(crate) fn create(vm: &VmFd, kind: Kind) -> Result<Self, Error> {
        let failed = |source| Error::Create { kind, source };
        match kind {
            Kind::InKernel => {
                vm.create_irq_chip().map_err(failed)?;
                Ok(Self::InKernel)
            }
            Kind::Split => {
                if !vm.check_extension(Cap::SplitIrqchip) {
                    return Err(Error::Unsupported { kind });
                }
                // The argument reserves the GSIs in which KVM looks for level-triggered routes.
                let mut cap = kvm_enable_cap {
                    cap: KVM_CAP_SPLIT_IRQCHIP,
                    ..Default::default()
                };
                cap.args[0] = u64::from(PINS);
                vm.enable_cap(&cap).map_err(failed)?;
                Ok(Self::Split(Box::default()))
            }
        }
    }

    pub(crate) fn set_line(&mut self, vm: &VmFd, gsis: &mut GsiTable, pin: u32, asserted: bool) {
        if let (Self::Split(ioapic), Ok(pin)) = (self, u8::try_from(pin)) {
            ioapic.set_line(pin, asserted, &mut KvmBus { vm, gsis });
        }
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        match self {
            Self::InKernel => data.fill(0),
            Self::Split(ioapic) => ioapic.read(offset, data),
        }
    }

    pub(crate) fn write(
        &mut self,
        vm: &VmFd,
        gsis: &mut GsiTable,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Error> {
        match self {
            Self::InKernel => Ok(()),
            Self::Split(ioapic) => ioapic.write(offset, data, &mut KvmBus { vm, gsis }),
        }
    }

    pub(crate) fn eoi(&mut self, vm: &VmFd, gsis: &mut GsiTable, vector: u8) {
        if let Self::Split(ioapic) = self {
            ioapic.eoi(vector, &mut KvmBus { vm, gsis });
        }
    }

    pub(crate) fn state(&self, vm: &VmFd, gsis: &GsiTable) -> Result<ChipState, Error> {
        match self {
            Self::InKernel => KernelChips::read(vm).map(ChipState::InKernel),
            Self::Split(ioapic) => {
                let mut ioapic = Ioapic::clone(ioapic);
                for pin in 0..ioapic::PINS as u8 {
                    if gsis.is_pending(u32::from(pin))? {
                        ioapic.remember_edge(pin);
                    }
                }
                Ok(ChipState::Split(ioapic.state()))
            }
        }
    }

    pub(crate) fn set_state(
        &mut self,
        vm: &VmFd,
        gsis: &mut GsiTable,
        state: &ChipState,
    ) -> Result<(), Error> {
        match (self, state) {
            (Self::InKernel, ChipState::InKernel(chips)) => chips.write(vm),
            (Self::Split(ioapic), ChipState::Split(state)) => {
                let restored = Ioapic::from_state(state)?;
                let pins = (0..ioapic::PINS as u8)
                    .filter_map(|pin| Some((u32::from(pin), restored.route(pin)?)));
                gsis.set_pins(vm, pins)?;
                **ioapic = restored.clone();
                // KVM saves no EOI that a vCPU has made but not yet left the guest for.
                ioapic.resend(&mut KvmBus { vm, gsis });
                Ok(())
            }
            (Self::InKernel, _) => Err(Error::WrongKind {
                kind: Kind::InKernel,
            }),
            (Self::Split(_), _) => Err(Error::WrongKind { kind: Kind::Split }),
        }
    }
}

/// The outputs of the split controller's IOAPIC.
struct KvmBus<'a> {
    vm: &'a VmFd,
    gsis: &'a mut GsiTable,
}

impl IoapicBus for KvmBus<'_> {
    type Error = Error;

    fn send(&mut self, message: MsiMessage) -> bool {
        // A message to a local APIC that does not exist is an error to KVM; it is the guest's
        // affair, and a refusal to the IOAPIC.
        signal_msi(self.vm, message).unwrap_or(false)
    }

    fn route_changed(&mut self, pin: u8, route: PinRoute) -> Result<(), Error> {
        self.gsis.set_pin(self.vm, u32::from(pin), route)
    }

    fn acknowledged(&mut self, pin: u8) {
        self.gsis.notify_resample(u32::from(pin));
    }
}
