//! Networking of virtual machine monitors: taps, bridges, user networking and virtio-net.
//!
//! [`Card`] is a virtio network card; its host end is a [`Backend`], which [`Tap::into_backend`] and
//! [`stream_backend`] make. The module `bridge` sets up the host's side.
//!
//! ```
//! use strata_net::{Card, CardConfig, RateLimit, stream_backend};
//! use strata_virtio::Device;
//!
//! let (host_end, far_end) = std::os::unix::net::UnixStream::pair()?;
//! let config = CardConfig {
//!     name: "net0".to_owned(),
//!     mac: "52:54:00:12:34:56".parse()?,
//!     mtu: 1500,
//!     rx_limit: RateLimit::default(),
//!     tx_limit: RateLimit::default(),
//! };
//! let card = Card::new(config, stream_backend(host_end)?)?;
//! let mut mac = [0; 6];
//! card.read_config(0, &mut mac);
//! assert_eq!(mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
//! # drop(far_end);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
mod vhost;

pub use backend::{Backend, Endpoint, Uplink, Vhost};
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

#[cfg(all(doctest, feature = "bridge"))]
#[doc = include_str!("../README.md")]
struct Readme;
