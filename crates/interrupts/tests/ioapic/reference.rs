//! A second model of the IOAPIC, written for plainness: one struct of bools per pin.

use strata_interrupts::MsiMessage;
use strata_interrupts::ioapic::{PINS, PinRoute};
use strata_interrupts::test_utils::RecordingBus;

#[derive(Clone, Copy)]
struct Pin {
    vector: u8,
    mode: u8,
    logical: bool,
    polarity: bool,
    level_bit: bool,
    masked: bool,
    destination: u8,
    remote_irr: bool,
    line: bool,
    edge: bool,
}

impl Pin {
    fn level(&self) -> bool {
        self.level_bit && self.mode <= 1
    }

    fn message(&self) -> Option<MsiMessage> {
        let usable = match self.mode {
            0 | 1 => self.vector >= 16 && self.vector != 255,
            2 | 4 | 5 | 7 => true,
            _ => false,
        };
        if !usable {
            return None;
        }
        let mut address = 0xfee0_0000 + 0x1000 * u64::from(self.destination);
        if self.logical {
            address += 4;
        }
        let mut data = u32::from(self.vector) + 0x100 * u32::from(self.mode);
        if self.level() {
            data += 0xc000;
        }
        Some(MsiMessage { address, data })
    }

    fn route(&self) -> PinRoute {
        PinRoute {
            message: self.message(),
            masked: self.masked,
        }
    }

    fn waiting(&self) -> bool {
        if self.level() {
            self.line && !self.remote_irr
        } else {
            self.edge
        }
    }

    fn deliver(&mut self, bus: &mut RecordingBus) {
        let Some(message) = self.message() else {
            return;
        };
        if self.masked || !self.waiting() || bus.refuses {
            return;
        }
        bus.sent.push(message);
        if self.level() {
            self.remote_irr = true;
        } else {
            self.edge = false;
        }
    }

    fn low(&self) -> u32 {
        let flags = [
            (11, self.logical),
            (12, !self.masked && self.waiting()),
            (13, self.polarity),
            (14, self.remote_irr),
            (15, self.level_bit),
            (16, self.masked),
        ];
        let start = u32::from(self.vector) | u32::from(self.mode) << 8;
        flags
            .iter()
            .fold(start, |bits, &(bit, set)| bits | u32::from(set) << bit)
    }

    fn set_low(&mut self, value: u32) {
        let bit = |bit: u32| value & 1 << bit != 0;
        self.vector = value as u8;
        self.mode = (value >> 8) as u8 & 7;
        self.logical = bit(11);
        self.polarity = bit(13);
        self.level_bit = bit(15);
        self.masked = bit(16);
    }
}

pub(crate) struct Reference {
    id: u32,
    select: u8,
    pins: [Pin; PINS],
    pub(crate) bus: RecordingBus,
}

impl Reference {
    pub(crate) fn new() -> Self {
        let pin = Pin {
            vector: 0,
            mode: 0,
            logical: false,
            polarity: false,
            level_bit: false,
            masked: true,
            destination: 0,
            remote_irr: false,
            line: false,
            edge: false,
        };
        Self {
            id: 0,
            select: 0,
            pins: [pin; PINS],
            bus: RecordingBus::default(),
        }
    }

    pub(crate) fn read(&self, offset: u64, width: usize) -> Vec<u8> {
        let value = match (offset, width) {
            (0x00, 1 | 2 | 4) => u32::from(self.select),
            (0x10, 4) => match self.select {
                0 | 2 => self.id << 24,
                1 => 0x0017_0020,
                select @ 0x10..=0x3f => {
                    let pin = &self.pins[usize::from(select - 0x10) / 2];
                    if select % 2 == 0 {
                        pin.low()
                    } else {
                        u32::from(pin.destination) << 24
                    }
                }
                _ => 0,
            },
            _ => 0,
        };
        let mut bytes = value.to_le_bytes().to_vec();
        bytes.resize(width, 0);
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0x00, [select]) | (0x00, [select, _]) | (0x00, [select, _, _, _]) => {
                self.select = *select;
            }
            (0x40, [vector]) | (0x40, [vector, _]) | (0x40, [vector, _, _, _]) => {
                self.eoi(*vector);
            }
            (0x10, &[a, b, c, d]) => self.set(u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }

    fn set(&mut self, value: u32) {
        if self.select == 0 {
            self.id = value >> 24 & 0xf;
        }
        let 0x10..=0x3f = self.select else { return };
        let index = (self.select - 0x10) / 2;
        let pin = &mut self.pins[usize::from(index)];
        let before = pin.route();
        if self.select.is_multiple_of(2) {
            pin.set_low(value);
        } else {
            pin.destination = (value >> 24) as u8;
        }
        if pin.level() {
            pin.edge = false;
        } else {
            pin.remote_irr = false;
        }
        if pin.route() != before {
            self.bus.routes.push((index, pin.route()));
        }
        pin.deliver(&mut self.bus);
    }

    pub(crate) fn eoi(&mut self, vector: u8) {
        for (index, pin) in self.pins.iter_mut().enumerate() {
            if pin.level() && pin.vector == vector {
                pin.remote_irr = false;
                self.bus.acknowledged.push(index as u8);
                pin.deliver(&mut self.bus);
            }
        }
    }

    pub(crate) fn set_line(&mut self, pin: u8, asserted: bool) {
        let Some(pin) = self.pins.get_mut(usize::from(pin)) else {
            return;
        };
        if asserted && !pin.line && !pin.level() {
            pin.edge = true;
        }
        pin.line = asserted;
        pin.deliver(&mut self.bus);
    }

    pub(crate) fn resend(&mut self) {
        for pin in &mut self.pins {
            pin.remote_irr = false;
            pin.deliver(&mut self.bus);
        }
    }
}
