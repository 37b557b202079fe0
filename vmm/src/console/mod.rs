//! A console's far end: a terminal, a file, a unix socket, or nothing.

pub mod escape;
pub mod receiver;
pub mod sink;
pub mod terminal;
