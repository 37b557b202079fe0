#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod command;
pub mod cpio;
mod debian;
mod error;
mod exits;
pub mod kernel;
mod lab;
mod machine;
mod measure;
mod port;
mod process;
#[allow(dead_code, reason = "level 1's agent uses the other half")]
mod protocol;
mod qmp;
mod recipe;
mod report;
mod template;

pub use debian::{install_missing, missing_packages};
pub use error::{Error, Result};
pub use exits::Exits;
pub use lab::Lab;
pub use machine::{Machine, Upload};
pub use measure::{Boot, Format};
pub use process::{Event, Output, Process};
pub use recipe::{ASSETS, CMDLINE, Config, Kernel, MARKER, SERIES};
pub use report::Cost;
