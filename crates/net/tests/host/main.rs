//! Bridges and taps of a real kernel, in network namespaces that the tests make.
//!
//! Needs root and `ip` (iproute2).

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

mod bridges;
mod persist;
mod taps;
mod world;
