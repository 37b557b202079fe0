//! The serial port: the 16550 between the bus, its interrupt and the console.

use std::io;
use std::sync::Arc;

use event_manager::{EventSet, Events};
use strata_interrupts::Interrupt;
use strata_legacy::{Serial, Trigger};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Ports, Power};
use crate::console::receiver::Receiver;
use crate::console::sink::Sink;
use crate::error::Error;

type Device = Serial<Line, Sink>;

/// What the port triggers: its interrupt in the guest, and our main loop when it has room again.
enum Line {
    Interrupt(Interrupt),
    Room(EventFd),
}

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self {
            Self::Interrupt(interrupt) => interrupt.trigger().map_err(io::Error::other),
            Self::Room(event) => event.write(1),
        }
    }
}

/// The first serial port.
pub struct SerialPort {
    ports: Ports<Device>,
    /// Readable when the receive buffer, once full, has room again.
    drained: EventFd,
}

impl SerialPort {
    /// How many ports it has.
    pub(super) const PORTS: u64 = <Device as strata_legacy::Device>::PORTS;

    /// A port that interrupts by `interrupt` and writes to `sink`.
    pub(super) fn new(interrupt: Interrupt, sink: Sink, power: Arc<Power>) -> Result<Self, Error> {
        let fail = |source| Error::Host {
            what: "create an eventfd",
            source,
        };
        let drained = EventFd::new(EFD_NONBLOCK).map_err(fail)?;
        let room = Line::Room(drained.try_clone().map_err(fail)?);
        let device = Device::new(Line::Interrupt(interrupt), room, sink);
        Ok(Self {
            ports: Ports::new("the serial port", device, power),
            drained,
        })
    }

    /// Resets its registers.
    pub fn reset(&self) {
        if let Err(error) = self.ports.lock().reset() {
            log::debug!("the serial port: {error}");
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.ports.name()
    }
}

impl Receiver for SerialPort {
    fn receive(&self, bytes: &[u8]) -> usize {
        self.ports.lock().enqueue(bytes).unwrap_or_else(|error| {
            log::debug!("the serial port: {error}");
            // They are in the buffer; the guest has only not been told.
            bytes.len()
        })
    }

    fn room(&self) -> Events {
        Events::new(&self.drained, EventSet::IN)
    }

    fn take_room(&self) {
        let _ = self.drained.read();
    }
}

impl DevicePio for SerialPort {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.ports.pio_read(base, offset, data);
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.ports.pio_write(base, offset, data);
    }
}
