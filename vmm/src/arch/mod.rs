//! What a machine looks like on each architecture: where things lie, and how its parts are made.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
