//! What is where in the device's one BAR, and the capabilities that say so.

use strata_pci::{BarKind, Capability, ConfigSpace, Identity};

use crate::device::DeviceType;
use crate::error::Error;

/// The BAR's index.
pub(super) const BAR: u8 = 0;
/// Bytes of the BAR.
pub(super) const BAR_SIZE: u64 = 0x8000;

pub(super) const COMMON: u64 = 0;
pub(super) const COMMON_SIZE: u64 = 0x40;
pub(super) const ISR: u64 = 0x800;
pub(super) const ISR_SIZE: u64 = 1;
/// Bytes of configuration space that a device type may have.
pub(super) const DEVICE: u64 = 0x1000;
pub(super) const DEVICE_SIZE: u64 = 0x1000;
pub(super) const MSIX_TABLE: u64 = 0x2000;
pub(super) const MSIX_TABLE_SIZE: u64 = 0x1000;
pub(super) const MSIX_PBA: u64 = 0x3000;
pub(super) const MSIX_PBA_SIZE: u64 = 0x1000;
/// On a page of its own: one that only ioeventfds serve.
pub(super) const NOTIFY: u64 = 0x4000;

/// Bytes between the notify addresses of two queues, so that each is an ioeventfd of its own.
pub(super) const NOTIFY_MULTIPLIER: u64 = 4;
pub(super) const MAX_QUEUES: usize = ((BAR_SIZE - NOTIFY) / NOTIFY_MULTIPLIER) as usize;
pub(super) const MAX_VECTORS: u16 = (MSIX_TABLE_SIZE / 16) as u16;

/// Types of capabilities (virtio 1.2, 4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Where the registers of capabilities are in configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// MSI-X message control.
    pub(super) msix_control: u16,
    /// The capability of type VIRTIO_PCI_CAP_PCI_CFG.
    pub(super) pci_cfg: u16,
}

/// The configuration space of a device (virtio 1.2, 4.1.2 and 4.1.4).
pub(super) fn config_space(
    device: DeviceType,
    queues: usize,
    vectors: u16,
) -> Result<(ConfigSpace, Capabilities), Error> {
    let mut config = ConfigSpace::new(&Identity {
        vendor: 0x1af4,
        device: 0x1040_u16.saturating_add(device.0),
        class: class(device),
        revision: 1,
        subsystem_vendor: 0x1af4,
        subsystem: 0x40,
    });
    config.add_bar(BAR, BarKind::Memory64, BAR_SIZE)?;
    let notify_size = (queues as u64).max(1) * NOTIFY_MULTIPLIER;
    // In the order in which Linux looks for them: each step of a search is an exit.
    config.add_capability(&structure(COMMON_CFG, COMMON, COMMON_SIZE, &[]))?;
    config.add_capability(&structure(ISR_CFG, ISR, ISR_SIZE, &[]))?;
    let multiplier = (NOTIFY_MULTIPLIER as u32).to_le_bytes();
    config.add_capability(&structure(NOTIFY_CFG, NOTIFY, notify_size, &multiplier))?;
    config.add_capability(&structure(DEVICE_CFG, DEVICE, DEVICE_SIZE, &[]))?;
    let msix = Capability::msix(vectors, BAR, MSIX_TABLE as u32, MSIX_PBA as u32);
    let msix_control = u16::from(config.add_capability(&msix)?) + 2;
    let pci_cfg = config.add_capability(&pci_cfg())?.into();
    let capabilities = Capabilities {
        msix_control,
        pci_cfg,
    };
    Ok((config, capabilities))
}

/// struct virtio_pci_cap, from `cfg_type` on.
fn structure_body(cfg_type: u8, offset: u64, size: u64, more: &[u8]) -> Vec<u8> {
    let mut body = vec![cfg_type, BAR, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(size as u32).to_le_bytes());
    body.extend_from_slice(more);
    body
}

fn structure(cfg_type: u8, offset: u64, size: u64, more: &[u8]) -> Capability {
    Capability::vendor(&structure_body(cfg_type, offset, size, more), &[])
}

/// struct virtio_pci_cfg_cap: a driver writes BAR, offset, length and data (4.1.4.9).
fn pci_cfg() -> Capability {
    let body = structure_body(PCI_CFG, 0, 0, &[0; 4]);
    let mut writable = vec![0xff; body.len()];
    // The type, the id and the padding.
    for at in [0, 2, 3, 4] {
        writable[at] = 0;
    }
    Capability::vendor(&body, &writable)
}

/// The class that says what the device is for (PCI Local Bus 3.0, D).
fn class(device: DeviceType) -> u32 {
    match device {
        DeviceType::NET => 0x02_00_00,
        DeviceType::BLOCK => 0x01_80_00,
        DeviceType::CONSOLE => 0x07_80_00,
        _ => 0xff_00_00,
    }
}
