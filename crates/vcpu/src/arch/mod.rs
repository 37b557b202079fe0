//! What an architecture defines, and the rest of the crate uses:
//!
//! - [`HostKind`], what stands behind the KVM device, and `REQUIRED`, what it must be capable of;
//! - [`Registers`], what the report of an abnormal exit shows;
//! - [`EntryPoint`] and `Vcpu::boot`, the state in which a guest starts;
//! - [`VcpuState`], `Vcpu::state` and `Vcpu::set_state`;
//! - `Vcpu::init_arch` and `Vcpu::excuse_lost_time`, called on creation and before resuming.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("strata-vcpu has no code for this architecture yet");
