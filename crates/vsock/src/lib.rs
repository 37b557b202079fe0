#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod connection;
mod device;
mod error;
mod host;
mod packet;
mod sys;
mod table;
mod worker;

pub use device::{Vsock, VsockHandle};
pub use error::Error;
pub use packet::{Header, op, shutdown};

/// The host's context id.
pub const HOST_CID: u64 = 2;

/// Connections that a device has at most, those whose host has yet to name a port among them. Each
/// has a descriptor, of which a process has 1024 by default: a guest must not take them all.
pub const MAX_CONNECTIONS: usize = 256;

/// Bytes that a connection holds at most for a host program that does not read: the guest's credit
/// (virtio 1.2, 5.10.6.3). Nothing is held, or allocated, for one that does.
pub const BUFFER: u32 = 128 << 10;
