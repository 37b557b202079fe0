#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod control;
mod device;
mod port;
mod worker;

pub use device::{Console, ConsoleHandle, MAX_PORTS};
pub use port::{Port, Stream};
