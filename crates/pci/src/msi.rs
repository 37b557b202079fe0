//! How a function's interrupts leave this crate.

use std::error::Error as StdError;
use std::fmt::Debug;

use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt: a 32-bit write to an address that the platform watches.
///
/// Both values come from the guest. Nothing here interprets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiMessage {
    /// Guest-physical address of the write.
    pub address: u64,
    /// Value of the write.
    pub data: u32,
}

/// Why a sink did not do what it was asked, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("MSI-X vector {vector}: {action}")]
pub struct MsiError {
    /// The vector.
    pub vector: u16,
    /// What was tried.
    pub action: &'static str,
    /// Why it failed.
    pub source: Box<dyn StdError + Send + Sync>,
}

/// The MSI-X vectors of one function, as the machine delivers them.
///
/// Vectors start masked and without a message. Implementations are shared between the thread that
/// serves the guest's accesses and those that trigger.
pub trait MsiSink: Debug + Send + Sync {
    /// How many vectors there are: 1 to 2048.
    fn vectors(&self) -> u16;

    /// Gives vectors their messages, all of them or, where it fails, none.
    ///
    /// # Errors
    /// [`MsiError`].
    fn set_messages(&self, messages: &[(u16, MsiMessage)]) -> Result<(), MsiError>;

    /// Masks a vector or unmasks it. What is triggered while it is masked is delivered once, when
    /// the mask goes.
    ///
    /// # Errors
    /// [`MsiError`].
    fn set_masked(&self, vector: u16, masked: bool) -> Result<(), MsiError>;

    /// Whether a masked vector was triggered: its pending bit.
    fn is_pending(&self, vector: u16) -> bool;

    /// The eventfd whose signal triggers `vector`, without a lock or an exit of the guest; `None`
    /// for a vector that does not exist. It stays the same for the life of the sink, so that a
    /// worker, vhost or VFIO may keep a duplicate.
    fn event_fd(&self, vector: u16) -> Option<&EventFd>;
}
