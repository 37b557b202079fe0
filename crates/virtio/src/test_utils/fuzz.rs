//! What fuzz targets of devices share.

use vm_memory::{Bytes, GuestAddress};

use super::driver::MockDriver;

/// Steps of one input; more would only make it slow.
const STEPS: usize = 200;

/// Runs any bytes as what a guest does to a device: accesses to its registers, writes to its rings,
/// kicks, and fresh starts. Twelve bytes are one step: what, a width, two of a place, and eight of
/// data.
///
/// The device is then in any state, and must still reset.
pub fn fuzz_queues(driver: &mut MockDriver, input: &[u8]) {
    let base = driver.notify_address(0) & !0x7fff;
    for step in input.chunks_exact(12).take(STEPS) {
        let &[what, width, place, place_high, ref data @ ..] = step else {
            return;
        };
        let place = u64::from(place) | u64::from(place_high) << 8;
        let data = &data[..1 << (width % 4)];
        match what % 8 {
            // All that a driver does who behaves, with or without the rings' features.
            0 => driver.start(u64::from(place_high) << 26 | u64::from(place as u8)),
            // The rings, which begin at 4096.
            1 | 2 => {
                let at = GuestAddress(0x1000 + place);
                driver.memory().write_slice(data, at).unwrap();
            }
            3 => driver.force_kick((place % 5) as u16),
            4 => {
                let mut bytes = [0; 8];
                let bytes = &mut bytes[..data.len()];
                driver.bus().read_memory(base + place, bytes);
            }
            // The common structure, or anywhere.
            5 | 6 => {
                let offset = if what & 8 == 0 { place % 64 } else { place };
                driver.bus().write_memory(base + offset, data);
            }
            // Not the BARs: they stay where the other steps look for them.
            _ => driver.write_config_space(0x34 + (place % 0xcc) as u16, data),
        }
    }
}
