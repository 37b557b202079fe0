//! `strata`, a virtual machine monitor for Linux/KVM: configuration, device wiring, the event
//! loop, and a machine's life from start to end.
//!
//! The parts a machine is made of are crates of their own (`strata-memory`, `strata-vcpu`,
//! `strata-interrupts`, `strata-boot`, `strata-legacy`); this one is the only place where they
//! meet.
#![deny(unsafe_code)]

pub mod announce;
pub mod arch;
pub mod cli;
pub mod config;
pub mod console;
mod control;
pub mod devices;
pub mod doctor;
pub mod error;
pub mod exit;
pub mod logging;
pub mod machine;
pub mod net;
mod sys;
