//! Doubles for tests of code that drives an IOAPIC.

use std::convert::Infallible;

use crate::MsiMessage;
use crate::ioapic::{IoapicBus, PinRoute};

/// A bus that keeps what the IOAPIC says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingBus {
    /// Messages that were accepted, in order.
    pub sent: Vec<MsiMessage>,
    /// Changed routes by pin, in order.
    pub routes: Vec<(u8, PinRoute)>,
    /// Pins whose interrupts the guest ended, in order.
    pub acknowledged: Vec<u8>,
    /// Whether messages are refused, as by local APICs that are disabled.
    pub refuses: bool,
}

impl IoapicBus for RecordingBus {
    type Error = Infallible;

    fn send(&mut self, message: MsiMessage) -> bool {
        if !self.refuses {
            self.sent.push(message);
        }
        !self.refuses
    }

    fn route_changed(&mut self, pin: u8, route: PinRoute) -> Result<(), Infallible> {
        self.routes.push((pin, route));
        Ok(())
    }

    fn acknowledged(&mut self, pin: u8) {
        self.acknowledged.push(pin);
    }
}
