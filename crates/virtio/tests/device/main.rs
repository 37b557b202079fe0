//! Devices driven by the mock driver, through the real transport.

#![allow(clippy::unwrap_used)]

mod corpus;
mod echo;
mod hostile;
mod lifecycle;
mod sequence;
mod serving;
mod slow;
mod transport;
