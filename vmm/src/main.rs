//! The `strata` virtual machine monitor.

fn main() {}
