#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod device;
mod handle;
mod stats;
mod worker;

pub use device::{Balloon, BalloonConfig};
pub use handle::BalloonHandle;
pub use stats::Stats;

/// Bytes of a page of the balloon, whatever the guest's and the host's pages are (virtio 1.2,
/// 5.5.6).
pub const PAGE: u64 = 4096;

/// Page numbers that one request may have: what 256 MiB have. It bounds how long a request takes;
/// Linux sends 256.
pub const MAX_PAGES: u64 = 1 << 16;
