//! A guest draws 32 bytes, by the mock driver.

use strata_rng::Rng;
use strata_virtio::test_utils::MockDriver;

fn main() -> std::io::Result<()> {
    let mut driver = MockDriver::new(Box::new(Rng::urandom()?));
    driver.start(u64::MAX);
    let used = driver.request(0, &[], &[16, 16]);
    println!("{:02x?}", used.written);
    Ok(())
}
