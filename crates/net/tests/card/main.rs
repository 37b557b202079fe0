//! The network card, driven by a mock driver, on taps in network namespaces.
//!
//! Needs root, `ip` (iproute2) and passt.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

mod commands;
mod frames;
mod guest;
mod stream;
mod traffic;
mod vhost;
