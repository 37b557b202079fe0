//! Network namespaces, and a network card's driver in miniature, for tests and benches.
//!
//! What goes wrong in a driver panics.

mod namespace;
mod nic;

pub use namespace::Namespace;
pub use nic::MockNic;
