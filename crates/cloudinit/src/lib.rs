#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod check;
mod error;
mod iso;
mod seed;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use check::Warning;
pub use error::{Error, Result};
pub use seed::{LABEL, MAX_FILE, MetaData, Seed};
