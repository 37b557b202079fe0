//! Devices driven by the mock driver, through the real transport.

#![allow(clippy::unwrap_used)]

mod echo;
mod hostile;
mod serving;
