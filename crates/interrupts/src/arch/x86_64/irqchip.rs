//! The chips inside KVM as plain data: two PICs and an IOAPIC (KVM API, `KVM_GET_IRQCHIP`).
//!
//! The crate's only unsafe code: KVM's structure is a union, told apart by the chip's number.
#![allow(unsafe_code)]

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state,
    kvm_irqchip, kvm_irqchip__bindgen_ty_1, kvm_pic_state,
};
use kvm_ioctls::VmFd;

use crate::Error;
use crate::ioapic::{IOAPIC_BASE, PINS};

/// The in-kernel chips. Every field is untrusted until a controller has taken it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KernelChips {
    /// The first PIC and the second, which cascades into it.
    pub pics: [PicState; 2],
    /// The IOAPIC.
    pub ioapic: KernelIoapicState,
}

/// An 8259A as KVM keeps it (`struct kvm_pic_state`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(missing_docs)]
pub struct PicState {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// The IOAPIC as KVM keeps it (`struct kvm_ioapic_state`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KernelIoapicState {
    /// Guest-physical address of the register window.
    pub base_address: u64,
    /// The register that IOREGSEL selects.
    pub select: u32,
    /// The APIC id.
    pub id: u32,
    /// Bit N: pin N is asserted and not delivered.
    pub irr: u32,
    /// The redirection table.
    pub entries: [u64; PINS],
}

impl KernelChips {
    pub(super) fn read(vm: &VmFd) -> Result<Self, Error> {
        Ok(Self {
            pics: [
                read_pic(vm, KVM_IRQCHIP_PIC_MASTER)?,
                read_pic(vm, KVM_IRQCHIP_PIC_SLAVE)?,
            ],
            ioapic: read_ioapic(vm)?,
        })
    }

    pub(super) fn write(&self, vm: &VmFd) -> Result<(), Error> {
        self.validate()?;
        let [first, second] = &self.pics;
        set(
            vm,
            KVM_IRQCHIP_PIC_MASTER,
            kvm_irqchip__bindgen_ty_1 {
                pic: first.to_kvm(),
            },
        )?;
        set(
            vm,
            KVM_IRQCHIP_PIC_SLAVE,
            kvm_irqchip__bindgen_ty_1 {
                pic: second.to_kvm(),
            },
        )?;
        set(
            vm,
            KVM_IRQCHIP_IOAPIC,
            kvm_irqchip__bindgen_ty_1 {
                ioapic: self.ioapic.to_kvm(),
            },
        )
    }

    fn validate(&self) -> Result<(), Error> {
        let checks = [
            (
                "priority_add",
                self.pics.iter().all(|pic| pic.priority_add < 8),
            ),
            ("init_state", self.pics.iter().all(|pic| pic.init_state < 4)),
            ("base_address", self.ioapic.base_address == IOAPIC_BASE),
            ("select", self.ioapic.select <= 0xff),
            ("id", self.ioapic.id <= 0xf),
            ("irr", self.ioapic.irr >> PINS == 0),
        ];
        match checks.into_iter().find(|&(_, valid)| !valid) {
            Some((field, _)) => Err(Error::InvalidState {
                what: "in-kernel chips",
                field,
            }),
            None => Ok(()),
        }
    }
}

fn read_pic(vm: &VmFd, chip: u32) -> Result<PicState, Error> {
    let chip = get(vm, chip)?;
    // SAFETY: the chip asked for is a PIC, and any bytes are a valid kvm_pic_state.
    Ok(PicState::from_kvm(unsafe { chip.pic }))
}

fn read_ioapic(vm: &VmFd) -> Result<KernelIoapicState, Error> {
    let chip = get(vm, KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the chip asked for is the IOAPIC, and any bytes are a valid kvm_ioapic_state.
    let ioapic = unsafe { chip.ioapic };
    Ok(KernelIoapicState {
        base_address: ioapic.base_address,
        select: ioapic.ioregsel,
        id: ioapic.id,
        irr: ioapic.irr,
        // SAFETY: both variants of an entry are the same 64 bits, all values of which are valid.
        entries: ioapic.redirtbl.map(|entry| unsafe { entry.bits }),
    })
}

fn get(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip__bindgen_ty_1, Error> {
    let mut chip = kvm_irqchip {
        chip_id,
        ..Default::default()
    };
    match vm.get_irqchip(&mut chip) {
        Ok(()) => Ok(chip.chip),
        Err(source) => Err(Error::Chip {
            action: "get",
            chip: name(chip_id),
            source,
        }),
    }
}

fn set(vm: &VmFd, chip_id: u32, chip: kvm_irqchip__bindgen_ty_1) -> Result<(), Error> {
    vm.set_irqchip(&kvm_irqchip {
        chip_id,
        chip,
        ..Default::default()
    })
    .map_err(|source| Error::Chip {
        action: "set",
        chip: name(chip_id),
        source,
    })
}

const fn name(chip_id: u32) -> &'static str {
    match chip_id {
        KVM_IRQCHIP_PIC_MASTER => "first PIC",
        KVM_IRQCHIP_PIC_SLAVE => "second PIC",
        _ => "IOAPIC",
    }
}

impl KernelIoapicState {
    fn to_kvm(&self) -> kvm_ioapic_state {
        let mut chip = kvm_ioapic_state {
            base_address: self.base_address,
            ioregsel: self.select,
            id: self.id,
            irr: self.irr,
            ..Default::default()
        };
        for (entry, &bits) in chip.redirtbl.iter_mut().zip(&self.entries) {
            entry.bits = bits;
        }
        chip
    }
}

impl PicState {
    fn from_kvm(chip: kvm_pic_state) -> Self {
        Self {
            last_irr: chip.last_irr,
            irr: chip.irr,
            imr: chip.imr,
            isr: chip.isr,
            priority_add: chip.priority_add,
            irq_base: chip.irq_base,
            read_reg_select: chip.read_reg_select,
            poll: chip.poll,
            special_mask: chip.special_mask,
            init_state: chip.init_state,
            auto_eoi: chip.auto_eoi,
            rotate_on_auto_eoi: chip.rotate_on_auto_eoi,
            special_fully_nested_mode: chip.special_fully_nested_mode,
            init4: chip.init4,
            elcr: chip.elcr,
            elcr_mask: chip.elcr_mask,
        }
    }

    fn to_kvm(&self) -> kvm_pic_state {
        kvm_pic_state {
            last_irr: self.last_irr,
            irr: self.irr,
            imr: self.imr,
            isr: self.isr,
            priority_add: self.priority_add,
            irq_base: self.irq_base,
            read_reg_select: self.read_reg_select,
            poll: self.poll,
            special_mask: self.special_mask,
            init_state: self.init_state,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            special_fully_nested_mode: self.special_fully_nested_mode,
            init4: self.init4,
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
        }
    }
}
