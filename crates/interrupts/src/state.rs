//! A controller's state as plain data.

use crate::MsiMessage;
pub use crate::arch::ChipState;

/// One message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiState {
    /// Its GSI.
    pub gsi: u32,
    /// Where it leads; `None` until the guest has programmed it.
    pub message: Option<MsiMessage>,
    /// Whether it is masked.
    pub masked: bool,
    /// Whether an event waits for the mask to go.
    pub pending: bool,
}

/// A whole interrupt controller. Every field is untrusted until
/// [`Controller::set_state`](crate::Controller::set_state) has taken it.
///
/// Local APICs belong to the vCPUs' state. The levels of an in-kernel controller's lines are
/// set again by their owners after a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ControllerState {
    /// The controller's chips.
    pub chips: ChipState,
    /// Message-signalled interrupts, by ascending GSI.
    pub msis: Vec<MsiState>,
}

impl ControllerState {
    /// Name and version of this layout.
    pub const KIND: (&'static str, u32) = ("interrupt-controller", 1);
}
