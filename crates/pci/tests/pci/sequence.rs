//! Runs any bytes as a sequence of accesses: the fuzz target's body, which the stored inputs share.

use std::sync::Arc;

use strata_pci::test_utils::RecordingSink;
use strata_pci::{Bus, Function, HotPlug, HotPlugEvents, Msix};

use crate::toy::{Toy, layout, read};

struct Nobody;

impl HotPlugEvents for Nobody {
    fn notify(&self) {}

    fn ejected(&self, _slot: u8, _function: Arc<dyn Function>) {}
}

/// Eleven bytes are one step: what, a width, and eight of an address or of data. Two buses get the
/// same, one by ECAM, the other by ports, and must read alike.
pub(crate) fn run(input: &[u8]) {
    let by_ecam = Arc::new(Bus::new(layout()).unwrap());
    let by_ports = Bus::new(layout()).unwrap();
    let hot_plug = HotPlug::new(by_ecam.clone(), u32::MAX, Arc::new(Nobody));
    by_ecam.add(Toy::new()).unwrap();
    by_ports.add(Toy::new()).unwrap();
    let mut msix = Msix::new(Arc::new(RecordingSink::new(5))).unwrap();
    for step in input.chunks_exact(11) {
        let &[what, width, place, ref value @ ..] = step else {
            return;
        };
        let value: [u8; 8] = value.try_into().unwrap();
        let address = u64::from_le_bytes(value);
        let width = usize::from(width % 9);
        let mut data = [0; 8];
        match what % 10 {
            // What both buses get: aligned, in one double word.
            0..4 => {
                let width = [1, 2, 4][width % 3];
                let register = u16::from(place) & !(width as u16 - 1);
                by_ecam.write_ecam(1 << 15 | u64::from(register), &value[..width]);
                let selected = 0x8000_0800 | u32::from(register & 0xfc);
                by_ports.write_port(0, &selected.to_le_bytes());
                by_ports.write_port(4 + register % 4, &value[..width]);
            }
            4 => by_ecam.read_ecam(address, &mut data[..width]),
            5 => {
                by_ecam.read_memory(address, &mut data[..width]);
                by_ecam.write_memory(address, &value[..width]);
            }
            6 => {
                hot_plug.read(place.into(), &mut data[..width]);
                if place == 8 && value[0] & 2 != 0 {
                    return;
                }
                hot_plug.write(place.into(), &value[..width]);
            }
            7 => {
                msix.write_table(place.into(), &value[..width]).unwrap();
                msix.read_pba(address, &mut data[..width]);
            }
            8 => msix
                .set_control(u16::from_le_bytes([value[0], value[1]]))
                .unwrap(),
            _ => {
                msix.read_table(address, &mut data[..width]);
                by_ecam.read_port(place.into(), &mut data[..width]);
            }
        }
        if what % 10 < 4 {
            assert_eq!(read::<256>(&by_ecam, 1, 0), read::<256>(&by_ports, 1, 0));
        }
        check(&by_ecam);
    }
}

/// What a guest can never change.
fn check(bus: &Bus) {
    let bytes: [u8; 256] = read(bus, 1, 0);
    assert_eq!(bytes[..4], [0x34, 0x12, 0x78, 0x56]);
    assert_eq!(bytes[0x10] & 0xf, 0);
    assert_eq!(bytes[0x18] & 0xf, 0b100);
    assert_eq!(bytes[0x40..0x44], [9, 0x48, 6, 1]);
}
