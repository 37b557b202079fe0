//! Network namespaces, a network card's driver in miniature, and a vhost-net that needs no kernel,
//! for tests and benches.
//!
//! What goes wrong in a driver panics.

mod namespace;
#[cfg(feature = "bridge")]
mod netlink;
mod nic;
mod vhost;

pub use namespace::Namespace;
#[cfg(feature = "bridge")]
pub use netlink::read_netlink;
pub use nic::MockNic;
pub use vhost::MockVhost;
