//! The virtio block device (virtio 1.2, 5.2).

mod config;
mod device;
#[cfg(test)]
mod lock_tests;
mod request;
mod server;
mod worker;

pub use device::{BlockControl, BlockDevice, BlockOptions, Failure, FailureSink};
#[cfg(feature = "test-utils")]
pub use request::exercise;
