//! PCI configuration mechanism #1, with nothing on the bus but its host bridge.
//!
//! There is no PCI device in the machine yet. But a Linux that finds no mechanism at all says so
//! by an error on its console, which costs two exits per character; and it asks for the class of
//! the host bridge to make sure of the mechanism (PCI Local Bus 3.0, 3.2.2.3.2).

use std::sync::atomic::{AtomicU32, Ordering};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

/// CONFIG_ADDRESS: bit 31 enables, then bus, device, function and register.
const ENABLE: u32 = 1 << 31;

/// What of an enabled address selects the function: bus 0, device 0, function 0 is the bridge.
const FUNCTION: u32 = 0x00ff_ff00;

/// The host bridge's configuration space, of which the rest is zero: Red Hat's PCIe host bridge,
/// class "host bridge", one function.
const HOST_BRIDGE: [u32; 3] = [0x0008_1b36, 0, 0x0600_0000];

/// The two registers, CONFIG_ADDRESS and CONFIG_DATA.
#[derive(Debug, Default)]
pub(super) struct PciConfigPorts {
    address: AtomicU32,
}

impl PciConfigPorts {
    /// The first port.
    pub(super) const BASE: u16 = 0xcf8;

    /// How many ports there are.
    pub(super) const PORTS: u64 = 8;

    fn config_dword(&self) -> u32 {
        let address = self.address.load(Ordering::Relaxed);
        if address & ENABLE == 0 || address & FUNCTION != 0 {
            return u32::MAX;
        }
        let register = (address & 0xfc) as usize / 4;
        HOST_BRIDGE.get(register).copied().unwrap_or(0)
    }
}

impl DevicePio for PciConfigPorts {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let value = match offset {
            0..4 => self.address.load(Ordering::Relaxed),
            _ => self.config_dword(),
        };
        let bytes = value
            .to_le_bytes()
            .into_iter()
            .skip(usize::from(offset % 4));
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = from;
        }
    }

    /// CONFIG_ADDRESS is written as a whole or not at all; nothing of the bridge can be written.
    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (0, &[a, b, c, d]) = (offset, data) {
            self.address
                .store(u32::from_le_bytes([a, b, c, d]), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PioAddress = PioAddress(PciConfigPorts::BASE);

    fn read<const N: usize>(ports: &PciConfigPorts, offset: u16) -> [u8; N] {
        let mut data = [0xff; N];
        ports.pio_read(PORT, offset, &mut data);
        data
    }

    #[test]
    fn linux_finds_the_mechanism_and_a_host_bridge() {
        let ports = PciConfigPorts::default();
        // arch/x86/pci/direct.c, pci_check_type1.
        ports.pio_write(PORT, 3, &[1]);
        ports.pio_write(PORT, 0, &0x8000_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 0), 0x8000_0000_u32.to_le_bytes());
        ports.pio_write(PORT, 0, &0x8000_0008_u32.to_le_bytes());
        assert_eq!(read(&ports, 6), [0x00, 0x06]);
    }

    #[test]
    fn there_is_nothing_else() {
        let ports = PciConfigPorts::default();
        assert_eq!(read(&ports, 4), [0xff; 4], "not enabled");
        for address in [0x8000_0100_u32, 0x8000_0800, 0x8001_0000, 0x80ff_ff00] {
            ports.pio_write(PORT, 0, &address.to_le_bytes());
            assert_eq!(read(&ports, 4), [0xff; 4], "{address:#x}");
        }
    }

    #[test]
    fn any_width_at_any_offset_is_harmless() {
        let ports = PciConfigPorts::default();
        for offset in 0..8 {
            for len in 0..=4 {
                let mut data = [0xff; 4];
                ports.pio_read(PORT, offset, &mut data[..len]);
                ports.pio_write(PORT, offset, &data[..len]);
            }
        }
    }
}
