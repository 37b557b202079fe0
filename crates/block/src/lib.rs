#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod disk;
mod error;
mod host_file;
mod limit;
mod lock;
mod log_limit;
mod options;
mod slow;
mod stats;
mod sys;
#[cfg(feature = "test-utils")]
pub mod test_utils;
mod virtio;

#[cfg(feature = "luks")]
pub use disk::LuksKey;
pub use disk::{Disk, SECTOR};
pub use error::Error;
pub use limit::RateLimiter;
pub use options::{Cache, DiskOptions, ErrorPolicy, Format, Limits};
pub use stats::{Operation, OperationStats, Stats};
pub use virtio::{BlockControl, BlockDevice, BlockOptions, Failure, FailureSink};
