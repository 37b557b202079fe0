//! What the CPUID instruction answers: computed from plain tables, without KVM.

mod baseline;
mod config;
mod features;
mod host_model;
mod table;
#[cfg(test)]
mod tests;
mod topology;

pub use config::{CpuModel, CpuidConfig, CpuidTemplate};
pub use table::{CpuidEntry, CpuidTable, Register, Vendor};
pub use topology::Topology;
