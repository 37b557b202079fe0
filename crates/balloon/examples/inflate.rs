//! A guest with 16 MiB in use gives 8 MiB back.

use std::error::Error;
use std::sync::Arc;

use strata_balloon::{Balloon, BalloonConfig, PAGE};
use strata_virtio::test_utils::MockDriver;
use vm_memory::{Bytes, GuestAddress};

/// Resident memory of this process in KiB.
fn resident() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    Ok(line.unwrap_or_default().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let ram = Arc::new(strata_memory::test_utils::ram(16 << 20)?);
    let balloon = Balloon::new(Arc::clone(&ram), BalloonConfig::default())?;
    let handle = balloon.handle();
    let mut driver = MockDriver::with_ram(Box::new(balloon), Arc::clone(&ram));
    driver.start(u64::MAX);
    ram.memory()
        .write_slice(&vec![1; 8 << 20], GuestAddress(8 << 20))?;
    println!("before: {}", resident()?);
    for first in (2048..4096_u32).step_by(256) {
        let pages: Vec<u8> = (first..first + 256).flat_map(u32::to_le_bytes).collect();
        driver.request(0, &[&pages], &[]);
    }
    println!("after:  {}", resident()?);
    println!("given:  {} pages", handle.discarded() / PAGE);
    Ok(())
}
