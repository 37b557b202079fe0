#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod arch;
mod error;
mod handler;
pub mod host;
mod report;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "test-utils")]
pub mod test_utils;
mod thread;
mod vcpu;

pub use arch::{
    CpuModel, CpuidConfig, CpuidTable, CpuidTemplate, EntryPoint, HostKind, Protocol, Registers,
    Topology, VcpuState,
};
pub use error::{Error, Result};
pub use handler::{Action, ExitHandler};
pub use host::{Capabilities, Host};
pub use report::{AbnormalExit, Cause, ExitReason};
pub use thread::VcpuThread;
pub use vcpu::Vcpu;
