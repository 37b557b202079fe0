//! The socket device, driven by the mock driver.

#![allow(clippy::unwrap_used)]

mod credit;
mod ends;
mod guest;
mod limits;
mod sequence;
mod streams;
mod wrong;
