//! Disks for tests: some that lose power, some whose I/O fails. Behind the feature `test-utils`.

mod fault;
mod power;

pub use fault::{Fault, FaultDisk, Faults};
pub use power::{History, PowerDisk};
