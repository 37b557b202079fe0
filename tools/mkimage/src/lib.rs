#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod archive;
mod build;
mod cache;
mod disk;
mod error;
mod export;
pub mod gpt;
mod host;
mod initrd;
mod key;
mod process;
mod request;

pub use cache::{Cache, Freshness};
pub use error::{Error, Result};
pub use export::{Format, Outputs};
pub use host::{install_missing, missing_packages};
pub use process::Runner;
pub use request::{Image, Request, Suite, Variant};
