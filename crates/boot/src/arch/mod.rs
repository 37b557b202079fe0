//! What a kernel of each architecture finds when it starts.
//!
//! An architecture supplies `Boot` (what to boot), `Boot::load`, which places it into guest memory
//! and returns `Entry` (the state to start the first vCPU with), `memory_map`, and `layout` (the
//! fixed guest-physical addresses).

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
