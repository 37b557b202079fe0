#![cfg_attr(feature = "test-utils", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "test-utils"),
    doc = "Virtio devices for virtual machine monitors; with the feature `test-utils` this page has the README."
)]
#![deny(unsafe_code)]

mod chain;
mod device;
mod error;
pub mod features;
mod interrupt;
mod queue;
mod segments;
mod sys;
#[cfg(feature = "test-utils")]
pub mod test_utils;
mod transport;
mod worker;

pub use chain::Chain;
pub use device::{Activation, Assignment, Device, DeviceType};
pub use error::{DeviceError, Error, QueueError};
pub use event_manager::EventSet;
pub use interrupt::{ConfigInterrupt, QueueInterrupt};
pub use queue::{Queue, QueueState};
pub use segments::Segments;
pub use sys::IoVec;
pub use transport::{EventBinder, TransportQueueState, TransportState, VirtioPci};
pub use worker::{Context, Worker};
