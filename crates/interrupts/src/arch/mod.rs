//! What a platform supplies. Each `arch` module defines, under these names:
//!
//! - `PINS`: pins of the interrupt controller, which are the lowest GSIs;
//! - `Route`: where a GSI leads, with `to_kvm` for KVM's routing table;
//! - `mmio_window`: the registers of a [`Kind`](crate::Kind) that userspace serves;
//! - `ChipState`: the controller's saved chips;
//! - `Chips`: the controller itself, made in a VM by `Chips::create`; levels, register accesses,
//!   EOIs and state pass through it.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{ChipState, KernelChips, KernelIoapicState, PicState};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{Chips, PINS, Route, mmio_window};
