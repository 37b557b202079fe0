//! Networking of virtual machine monitors.

#![deny(unsafe_code)]

mod backend;
#[cfg(feature = "bridge")]
pub mod bridge;
mod device;
mod error;
mod limit;
mod name;
#[cfg(feature = "bridge")]
mod netlink;
mod passt;
mod stream;
mod sys;
mod tap;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use backend::{Backend, Endpoint, Uplink};
pub use device::{Card, CardConfig, Link, Statistics, features};
pub use error::Error;
pub use limit::RateLimit;
pub use name::{InterfaceName, MAX_NAME_LEN, MacAddr};
pub use passt::{Forward, Passt, Protocol};
pub use stream::stream_backend;
pub use sys::ReceiveList;
pub use tap::{Offloads, Tap, TapQueue};

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6).
pub const HEADER_LEN: usize = 12;
