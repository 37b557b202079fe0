//! Benches of the vCPU.
fn main() {}
