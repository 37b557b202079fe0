//! What the data sheet says of each register, exhaustively.

use strata_interrupts::MsiMessage;
use strata_interrupts::ioapic::{IOAPIC_SIZE, Ioapic, PINS, PinRoute};
use strata_interrupts::test_utils::RecordingBus;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const IOEOI: u64 = 0x40;

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;
const SEND_PENDING: u32 = 1 << 12;

fn get(ioapic: &mut Ioapic, register: u8) -> u32 {
    let mut data = [0; 4];
    ioapic
        .write(IOREGSEL, &[register], &mut RecordingBus::default())
        .unwrap();
    ioapic.read(IOWIN, &mut data);
    u32::from_le_bytes(data)
}

fn set(ioapic: &mut Ioapic, register: u8, value: u32, bus: &mut RecordingBus) {
    ioapic.write(IOREGSEL, &[register], bus).unwrap();
    ioapic.write(IOWIN, &value.to_le_bytes(), bus).unwrap();
}

fn low(pin: u8) -> u8 {
    0x10 + 2 * pin
}

#[test]
fn every_register_has_its_reset_value() {
    let mut ioapic = Ioapic::new();
    for register in 0..=0xff {
        let expected = match register {
            0x01 => 0x0017_0020,
            0x10..=0x3f if register % 2 == 0 => MASKED,
            _ => 0,
        };
        assert_eq!(
            get(&mut ioapic, register),
            expected,
            "register {register:#x}"
        );
    }
}

#[test]
fn every_bit_of_every_register_is_writable_or_not_as_the_data_sheet_says() {
    for register in 0..=0xff {
        for bit in 0..32 {
            let mut ioapic = Ioapic::new();
            set(
                &mut ioapic,
                register,
                1 << bit,
                &mut RecordingBus::default(),
            );
            let writable = match register {
                0x00 => 0x0f00_0000,
                0x10..=0x3f if register % 2 == 0 => 0x0001_afff,
                0x10..=0x3f => 0xff00_0000,
                _ => 0,
            };
            let expected = match register {
                0x01 => 0x0017_0020,
                _ => writable & 1 << bit,
            };
            assert_eq!(
                get(&mut ioapic, register),
                expected,
                "register {register:#x} bit {bit}"
            );
            for other in (0..=0xff).filter(|&other| other != register) {
                // The arbitration id follows the id.
                if (register, other) != (0x00, 0x02) {
                    let fresh = get(&mut Ioapic::new(), other);
                    assert_eq!(
                        get(&mut ioapic, other),
                        fresh,
                        "{register:#x} changed {other:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_arbitration_id_follows_the_id() {
    let mut ioapic = Ioapic::new();
    set(&mut ioapic, 0x00, 0x0b00_0000, &mut RecordingBus::default());
    assert_eq!(get(&mut ioapic, 0x02), 0x0b00_0000);
}

#[test]
fn only_the_decoded_offsets_and_widths_read_anything() {
    let mut ioapic = Ioapic::new();
    ioapic
        .write(IOREGSEL, &[0x01], &mut RecordingBus::default())
        .unwrap();
    for offset in (0..IOAPIC_SIZE + 16).chain([u64::MAX]) {
        for width in 0..=9 {
            let mut data = [0xa5; 9];
            ioapic.read(offset, &mut data[..width]);
            let mut expected = [0; 9];
            match (offset, width) {
                (IOREGSEL, 1 | 2 | 4) => expected[0] = 0x01,
                (IOWIN, 4) => expected[..4].copy_from_slice(&0x0017_0020u32.to_le_bytes()),
                _ => {}
            }
            assert_eq!(
                data[..width],
                expected[..width],
                "{width} bytes at {offset:#x}"
            );
            assert!(data[width..].iter().all(|&byte| byte == 0xa5));
        }
    }
}

#[test]
fn only_the_decoded_offsets_and_widths_write_anything() {
    // Pin 0: level triggered, delivered, and so with something for IOEOI to do.
    let mut bus = RecordingBus::default();
    let mut delivered = Ioapic::new();
    set(&mut delivered, low(0), LEVEL | 0x30, &mut bus);
    delivered.set_line(0, true, &mut bus);
    for offset in (0..IOAPIC_SIZE + 16).chain([u64::MAX]) {
        for width in 0..=9 {
            let mut ioapic = delivered.clone();
            let mut bus = RecordingBus::default();
            ioapic.write(offset, &[0x30; 9][..width], &mut bus).unwrap();
            let writes = matches!((offset, width), (IOREGSEL | IOEOI, 1 | 2 | 4) | (IOWIN, 4));
            let changes = ioapic != delivered || bus != RecordingBus::default();
            assert_eq!(changes, writes, "{width} bytes at {offset:#x}");
        }
    }
}

#[test]
fn each_pin_sends_what_its_own_entry_says() {
    for pin in 0..PINS as u8 {
        let mut ioapic = Ioapic::new();
        let mut bus = RecordingBus::default();
        set(&mut ioapic, low(pin) + 1, 0x0700_0000, &mut bus);
        set(&mut ioapic, low(pin), 0x40 + u32::from(pin), &mut bus);
        for other in 0..=255 {
            ioapic.set_line(other, true, &mut bus);
            ioapic.set_line(other, false, &mut bus);
        }
        let message = MsiMessage {
            address: 0xfee0_7000,
            data: 0x40 + u32::from(pin),
        };
        assert_eq!(bus.sent, [message], "pin {pin}");
    }
}

#[test]
fn a_route_is_told_when_it_changes_and_only_then() {
    let mut ioapic = Ioapic::new();
    let mut bus = RecordingBus::default();
    set(&mut ioapic, low(3) + 1, 0x0100_0000, &mut bus);
    set(&mut ioapic, low(3), MASKED, &mut bus);
    assert_eq!(bus.routes, [], "no valid vector yet");
    set(&mut ioapic, low(3), MASKED | 0x33, &mut bus);
    set(&mut ioapic, low(3), MASKED | 0x33, &mut bus);
    set(&mut ioapic, low(3), MASKED | 1 << 13 | 0x33, &mut bus);
    set(&mut ioapic, low(3), 0x33, &mut bus);
    set(&mut ioapic, low(3), 0, &mut bus);
    let message = Some(MsiMessage {
        address: 0xfee0_1000,
        data: 0x33,
    });
    let told = [
        PinRoute {
            message,
            masked: true,
        },
        PinRoute {
            message,
            masked: false,
        },
        PinRoute {
            message: None,
            masked: false,
        },
    ];
    assert_eq!(bus.routes, told.map(|route| (3, route)));
}

#[test]
fn remote_irr_lasts_from_acceptance_to_the_end() {
    let mut ioapic = Ioapic::new();
    let mut bus = RecordingBus::default();
    set(&mut ioapic, low(9), LEVEL | 0x39, &mut bus);
    ioapic.set_line(9, true, &mut bus);
    assert_eq!(get(&mut ioapic, low(9)), LEVEL | REMOTE_IRR | 0x39);
    ioapic.set_line(9, false, &mut bus);
    ioapic.set_line(9, true, &mut bus);
    assert_eq!(bus.sent.len(), 1, "sent again before its end");
    ioapic.eoi(0x38, &mut bus);
    assert_eq!(
        (bus.sent.len(), bus.acknowledged.len()),
        (1, 0),
        "another vector's end"
    );
    ioapic
        .write(IOEOI, &0x39u32.to_le_bytes(), &mut bus)
        .unwrap();
    assert_eq!(
        (bus.sent.len(), &bus.acknowledged[..]),
        (2, &[9][..]),
        "still asserted"
    );
    ioapic.set_line(9, false, &mut bus);
    ioapic.eoi(0x39, &mut bus);
    assert_eq!(get(&mut ioapic, low(9)), LEVEL | 0x39);
    assert_eq!(bus.sent.len(), 2);
}

#[test]
fn one_end_serves_all_pins_of_its_vector() {
    let mut ioapic = Ioapic::new();
    let mut bus = RecordingBus::default();
    for pin in [2, 20, 23] {
        set(&mut ioapic, low(pin), LEVEL | 0x50, &mut bus);
        ioapic.set_line(pin, true, &mut bus);
    }
    set(&mut ioapic, low(21), 0x50, &mut bus);
    ioapic.eoi(0x50, &mut bus);
    assert_eq!(bus.acknowledged, [2, 20, 23], "an edge has no end");
    assert_eq!(bus.sent.len(), 6);
}

#[test]
fn what_local_apics_refuse_stays_pending() {
    for trigger in [0, LEVEL] {
        let mut ioapic = Ioapic::new();
        let mut bus = RecordingBus {
            refuses: true,
            ..Default::default()
        };
        set(&mut ioapic, low(1), trigger | 0x31, &mut bus);
        ioapic.set_line(1, true, &mut bus);
        assert_eq!(get(&mut ioapic, low(1)), trigger | SEND_PENDING | 0x31);
        bus.refuses = false;
        set(&mut ioapic, low(1), trigger | 0x32, &mut bus);
        assert_eq!(bus.sent.len(), 1);
        assert_eq!(bus.sent[0].data & 0xff, 0x32);
        assert_eq!(get(&mut ioapic, low(1)) & SEND_PENDING, 0);
    }
}

#[test]
fn a_mask_remembers_edges_and_looks_again_at_levels() {
    let mut bus = RecordingBus::default();
    let mut ioapic = Ioapic::new();
    set(&mut ioapic, low(1), MASKED | 0x31, &mut bus);
    ioapic.set_line(1, true, &mut bus);
    ioapic.set_line(1, false, &mut bus);
    ioapic.set_line(1, true, &mut bus);
    assert_eq!(
        get(&mut ioapic, low(1)) & SEND_PENDING,
        0,
        "a masked pin sends nothing"
    );
    assert_eq!(bus.sent.len(), 0);
    set(&mut ioapic, low(1), 0x31, &mut bus);
    assert_eq!(bus.sent.len(), 1, "edges under one mask are one interrupt");

    set(&mut ioapic, low(2), MASKED | LEVEL | 0x32, &mut bus);
    ioapic.set_line(2, true, &mut bus);
    ioapic.set_line(2, false, &mut bus);
    set(&mut ioapic, low(2), LEVEL | 0x32, &mut bus);
    assert_eq!(bus.sent.len(), 1, "the level fell");
    set(&mut ioapic, low(2), MASKED | LEVEL | 0x32, &mut bus);
    ioapic.set_line(2, true, &mut bus);
    set(&mut ioapic, low(2), LEVEL | 0x32, &mut bus);
    assert_eq!(bus.sent.len(), 2, "the level stayed");
}

#[test]
fn a_remembered_edge_is_lost_to_a_turn_to_level() {
    let mut bus = RecordingBus::default();
    let mut ioapic = Ioapic::new();
    ioapic.set_line(1, true, &mut bus);
    ioapic.set_line(1, false, &mut bus);
    set(&mut ioapic, low(1), MASKED | LEVEL | 0x31, &mut bus);
    set(&mut ioapic, low(1), 0x31, &mut bus);
    assert_eq!(bus.sent, []);
}
