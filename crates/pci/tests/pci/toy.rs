//! A function that remembers what happens in its BARs.

use std::sync::{Arc, Mutex};

use strata_pci::{
    Bar, BarKind, BarRange, Bus, BusLayout, Capability, ConfigSpace, Function, Identity,
};

pub(crate) struct Toy {
    config: Mutex<ConfigSpace>,
    /// Writes: BAR, offset, data.
    pub(crate) writes: Mutex<Vec<(u8, u64, Vec<u8>)>>,
}

impl Toy {
    /// BAR 0 has 4 KiB with 32 bits, BAR 2 has 64 KiB with 64 bits.
    pub(crate) fn new() -> Arc<Self> {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0xff_00_00,
            revision: 7,
            subsystem_vendor: 0x9abc,
            subsystem: 0xdef0,
        });
        config.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
        config.add_bar(2, BarKind::Memory64, 0x1_0000).unwrap();
        config
            .add_capability(&Capability::vendor(&[1, 2, 3], &[0, 0xff]))
            .unwrap();
        config
            .add_capability(&Capability::msix(4, 2, 0x8000, 0x9000))
            .unwrap();
        Arc::new(Self {
            config: Mutex::new(config),
            writes: Mutex::default(),
        })
    }
}

impl Function for Toy {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.config.lock().unwrap().write(offset, data);
    }

    fn bars(&self, each: &mut dyn FnMut(u8, Bar)) {
        let config = self.config.lock().unwrap();
        config.bars().for_each(|(index, bar)| each(index, bar));
    }

    fn ranges(&self, each: &mut dyn FnMut(BarRange)) {
        self.config.lock().unwrap().ranges().for_each(each);
    }

    /// Every byte is the BAR's index and the low bits of its offset.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = bar << 5 | at as u8 & 0x1f;
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        let write = (bar, offset, data.to_vec());
        self.writes.lock().unwrap().push(write);
    }

    fn reset(&self) {
        self.config.lock().unwrap().reset();
    }
}

pub(crate) const ECAM: u64 = 0xe000_0000;
pub(crate) const MEM32: u64 = 0xd000_0000;
pub(crate) const MEM64: u64 = 1 << 38;

pub(crate) fn layout() -> BusLayout {
    BusLayout {
        ecam: ECAM,
        mem32: MEM32..MEM32 + 0x10_0000,
        mem64: MEM64..1 << 39,
    }
}

/// A register in a slot's configuration space, by ECAM.
pub(crate) fn read<const N: usize>(bus: &Bus, slot: u8, register: u16) -> [u8; N] {
    let mut data = [0x5a; N];
    bus.read_ecam(u64::from(slot) << 15 | u64::from(register), &mut data);
    data
}

pub(crate) fn read_u32(bus: &Bus, slot: u8, register: u16) -> u32 {
    u32::from_le_bytes(read(bus, slot, register))
}

pub(crate) fn write(bus: &Bus, slot: u8, register: u16, data: &[u8]) {
    bus.write_ecam(u64::from(slot) << 15 | u64::from(register), data);
}
