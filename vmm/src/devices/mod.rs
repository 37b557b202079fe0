//! The machine's devices, and how they reach its interrupts.

mod bus;
mod console;
mod disk;
mod net;
mod node;
mod pci;
mod ports;
mod power;
mod secret;
mod serial;
mod small;

use std::sync::Arc;

use strata_interrupts::Controller;
use strata_legacy::{AcpiPower, Device, Pvpanic, ResetPort, Rtc, SystemClock, layout};
use strata_pci::HotPlug;
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

pub use self::bus::Bus;
pub use self::console::VirtioConsole;
pub use self::disk::{Disks, OpenDisk};
pub use self::net::{Nets, OpenNet};
pub use self::node::Node;
use self::pci::HotPlugPorts;
pub use self::pci::{Function, Pci, Region, Removed};
use self::ports::Ports;
pub use self::power::{Power, PowerButton};
pub use self::secret::Secrets;
pub use self::serial::SerialPort;
pub use self::small::SmallDevices;
use crate::arch;
use crate::console::sink::Sink;
use crate::error::Error;

/// The devices of a machine, wired.
pub struct Devices {
    /// Who answers where.
    pub io: IoManager,
    /// The sleep and reset registers.
    pub power: Arc<Power>,
    /// The power button.
    pub power_button: Arc<PowerButton>,
    /// The first serial port.
    pub serial: Arc<SerialPort>,
}

/// Makes the devices, with the serial port's output going to `sink`. `pci` has those in its slots.
///
/// # Errors
/// [`Error::Interrupts`] when an interrupt can not be had.
pub fn create(controller: &Controller, pci: Arc<Pci>, sink: Sink) -> Result<Devices, Error> {
    let mut io = IoManager::new();
    let power = Arc::new(Power::default());
    let interrupt = controller.edge_pin(layout::COM1_IRQ)?;
    let serial = Arc::new(SerialPort::new(interrupt, sink, power.clone())?);
    add_ports(
        &mut io,
        layout::COM1,
        SerialPort::PORTS,
        serial.name(),
        serial.clone(),
    )?;
    add_device(
        &mut io,
        layout::ACPI_POWER,
        "the power registers",
        AcpiPower::new(),
        &power,
    )?;
    add_device(
        &mut io,
        layout::RESET_PORT,
        "the reset port",
        ResetPort,
        &power,
    )?;
    add_device(
        &mut io,
        layout::RTC,
        "the real-time clock",
        Rtc::new(SystemClock),
        &power,
    )?;
    add_device(
        &mut io,
        layout::PVPANIC,
        "the panic device",
        Pvpanic,
        &power,
    )?;
    if let Some(ports) = HotPlugPorts::of(&pci) {
        add_ports(
            &mut io,
            arch::HOT_PLUG_PORT,
            HotPlug::PORTS.into(),
            "PCI hot-plug",
            Arc::new(ports),
        )?;
    }
    let (base, count) = Pci::PORTS;
    add_ports(&mut io, base, count, "the PCI bus", pci)?;
    if let Some((base, size)) = controller.mmio_window() {
        add_window(
            &mut io,
            base,
            size,
            "the IOAPIC",
            IoapicWindow(controller.clone()),
        )?;
    }
    let power_button = Arc::new(PowerButton::new(
        controller.edge_pin(arch::POWER_BUTTON_IRQ)?,
    ));
    Ok(Devices {
        io,
        power,
        power_button,
        serial,
    })
}

fn add_device<D: Device + Send + 'static>(
    io: &mut IoManager,
    base: u16,
    name: &'static str,
    device: D,
    power: &Arc<Power>,
) -> Result<(), Error> {
    let device = Arc::new(Ports::new(name, device, power.clone()));
    add_ports(io, base, D::PORTS, name, device)
}

fn add_ports(
    io: &mut IoManager,
    base: u16,
    count: u64,
    name: &'static str,
    device: Arc<dyn DevicePio + Send + Sync>,
) -> Result<(), Error> {
    let count = u16::try_from(count).map_err(|_| Error::Bus(name))?;
    PioRange::new(PioAddress(base), count)
        .and_then(|range| io.register_pio(range, device))
        .map_err(|_| Error::Bus(name))
}

fn add_window(
    io: &mut IoManager,
    base: u64,
    size: u64,
    name: &'static str,
    device: impl DeviceMmio + Send + Sync + 'static,
) -> Result<(), Error> {
    MmioRange::new(MmioAddress(base), size)
        .and_then(|range| io.register_mmio(range, Arc::new(device)))
        .map_err(|_| Error::Bus(name))
}

/// The registers of the split controller's IOAPIC.
struct IoapicWindow(Controller);

impl DeviceMmio for IoapicWindow {
    fn mmio_read(&self, _base: MmioAddress, offset: u64, data: &mut [u8]) {
        self.0.mmio_read(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: u64, data: &[u8]) {
        if let Err(error) = self.0.mmio_write(offset, data) {
            log::warn!("the IOAPIC does not take what the guest writes: {error}");
        }
    }
}
