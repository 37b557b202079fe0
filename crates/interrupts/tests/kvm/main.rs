//! Small guests that take real interrupts from this host's KVM.
//!
//! They run in ring 0, in 64-bit mode, with integer code only, so that they run wherever there is
//! a `/dev/kvm`. `STRATA_TEST_NO_KVM=1` leaves them out.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)]

mod edge;
mod guest;
mod level;
mod msi;
mod ownership;
mod restore;
