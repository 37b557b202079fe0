use std::io;

/// What can go wrong with a device. A guest can bring about none of these by itself: they come from
/// the machine's side of the device, or from a saved state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An interrupt could not be raised.
    #[error("raising the interrupt of the {device} failed")]
    Interrupt {
        /// The device.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A byte that the guest sent could not be written, and is lost.
    #[error("writing the output of the serial port failed")]
    SerialOutput(#[source] io::Error),
    /// A saved state is not one that the device can be in.
    #[error("the saved state of the {device} is impossible: {reason}")]
    State {
        /// The device.
        device: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}
