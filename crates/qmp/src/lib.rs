#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod client;
mod commands;
mod error;
mod event;
mod framer;
mod session;

pub use client::{Client, Gone, MAX_QUEUE, Wants};
pub use commands::{Commands, NoArguments, Version};
pub use error::{Class, Error};
pub use event::Event;
pub use framer::{MAX_DEPTH, MAX_MESSAGE};
