//! Network namespaces, and a network card's driver in miniature, for tests and benches.
//!
//! What goes wrong in a driver panics.

mod namespace;
#[cfg(feature = "bridge")]
mod netlink;
mod nic;

pub use namespace::Namespace;
#[cfg(feature = "bridge")]
pub use netlink::read_netlink;
pub use nic::MockNic;
