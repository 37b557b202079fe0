//! The serial console's far end: a terminal, a file, a unix socket, or nothing.

pub mod escape;
pub mod sink;
pub mod terminal;
