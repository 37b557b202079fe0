//! Runs any bytes as what a guest does to a device: the fuzz target's body, which the stored inputs
//! share.

use strata_virtio::test_utils::MockDriver;
use vm_memory::{Bytes, GuestAddress};

use crate::echo::Echo;

/// Twelve bytes are one step: what, a width, two of a place and eight of data. Whatever was done,
/// the device must reset and serve a driver that behaves.
pub(crate) fn run(input: &[u8]) {
    let mut driver = MockDriver::new(Box::new(Echo::new()));
    let base = driver.notify_address(0) & !0x7fff;
    let mut memory_decoded = true;
    for step in input.chunks_exact(12).take(200) {
        let &[what, width, place, place_high, ref data @ ..] = step else {
            return;
        };
        let place = u64::from(place) | u64::from(place_high) << 8;
        let width = 1 << (width % 4);
        match what % 8 {
            // A driver that behaves up to here, and its rings, which begin at 4096.
            0 => driver.start(u64::from(place_high) << 26 | 1 << 32),
            1 | 2 => {
                let at = GuestAddress(0x1000 + place);
                driver.memory().write_slice(&data[..width], at).unwrap();
            }
            3 => driver.kick((place % 3) as u16),
            4 => {
                let mut bytes = [0; 8];
                driver.bus().read_memory(base + place, &mut bytes[..width]);
            }
            5 | 6 => {
                // The common structure, or anywhere.
                let offset = if what & 8 == 0 { place % 64 } else { place };
                driver.bus().write_memory(base + offset, &data[..width]);
            }
            _ => {
                // BARs stay where they are, for the next steps to hit.
                let register = 0x34 + (place % 0xcc) as u16;
                driver.write_config_space(register, &data[..width]);
                if place_high == 0xff {
                    memory_decoded = !memory_decoded;
                    driver.write_config_space(4, &[if memory_decoded { 6 } else { 0 }]);
                }
            }
        }
        if !memory_decoded {
            memory_decoded = true;
            driver.write_config_space(4, &[6]);
        }
    }
    driver.start(u64::MAX);
    assert_eq!(driver.request(1, &[b"alive"], &[5]).written, b"alive");
}
