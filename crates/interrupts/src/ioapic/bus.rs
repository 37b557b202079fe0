//! What an IOAPIC drives: the interrupt message bus and whoever mirrors its table.

use crate::MsiMessage;

/// What a pin's redirection entry programs, as far as others need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinRoute {
    /// The message the pin sends, masked or not; `None` while no valid interrupt is programmed.
    pub message: Option<MsiMessage>,
    /// Whether the pin is masked.
    pub masked: bool,
}

/// The IOAPIC's outputs. They are called from within the access or the change of a line that
/// causes them, in the order in which hardware would show them.
pub trait IoapicBus {
    /// Why a route could not be taken over.
    type Error;

    /// Sends an interrupt message, and says whether a local APIC accepted it. What is refused
    /// stays pending at its pin.
    fn send(&mut self, message: MsiMessage) -> bool;

    /// `pin`'s entry now programs `route`; called before anything is sent by the new entry, and
    /// only where the route differs from the one before.
    ///
    /// # Errors
    ///
    /// The write that caused the change returns the error; the entry keeps its new value.
    fn route_changed(&mut self, pin: u8, route: PinRoute) -> Result<(), Self::Error>;

    /// The guest ended a level-triggered interrupt of `pin`; called before the pin is
    /// evaluated again.
    fn acknowledged(&mut self, pin: u8);
}
