use strata_pci::{Bus, BusLayout, Error};

use crate::toy::{MEM32, MEM64, Toy, layout, read, read_u32, write};

fn port_read<const N: usize>(bus: &Bus, offset: u16) -> [u8; N] {
    let mut data = [0x5a; N];
    bus.read_port(offset, &mut data);
    data
}

#[test]
fn ports_reach_what_ecam_reaches() {
    let bus = Bus::new(layout()).unwrap();
    bus.add(Toy::new()).unwrap();
    // Linux, arch/x86/pci/direct.c: pci_check_type1.
    bus.write_port(3, &[1]);
    bus.write_port(0, &0x8000_0000_u32.to_le_bytes());
    assert_eq!(port_read(&bus, 0), 0x8000_0000_u32.to_le_bytes());
    for register in (0..256_u16).step_by(4) {
        let address = 0x8000_0800 | u32::from(register);
        bus.write_port(0, &address.to_le_bytes());
        assert_eq!(port_read::<4>(&bus, 4), read(&bus, 1, register));
        assert_eq!(port_read::<1>(&bus, 6), read(&bus, 1, register + 2));
        assert_eq!(port_read::<2>(&bus, 6), read(&bus, 1, register + 2));
    }
    bus.write_port(0, &0x8000_083c_u32.to_le_bytes());
    bus.write_port(4, &[0x77]);
    assert_eq!(read(&bus, 1, 0x3c), [0x77]);
    for nobody in [0x0000_0800_u32, 0x8000_0900, 0x8001_0800, 0x8000_1000] {
        bus.write_port(0, &nobody.to_le_bytes());
        assert_eq!(port_read(&bus, 4), [0xff; 4], "{nobody:#x}");
        bus.write_port(4, &[0; 4]);
    }
    assert_eq!(read(&bus, 1, 0x3c), [0x77]);
}

#[test]
fn other_buses_and_functions_are_not_there() {
    let bus = Bus::new(layout()).unwrap();
    for offset in [1 << 12, 7 << 12, 1 << 20, 1 << 40, !3] {
        let mut data = [0; 4];
        bus.read_ecam(offset, &mut data);
        assert_eq!(data, [0xff; 4], "{offset:#x}");
        bus.write_ecam(offset, &data);
    }
    assert_eq!(read::<4>(&bus, 0, 0x100), [0; 4], "no extended capability");
    assert_eq!(read::<4>(&bus, 0, 0xffc), [0; 4]);
}

#[test]
fn slots_fill_and_empty_and_their_windows_come_back() {
    let bus = Bus::new(layout()).unwrap();
    for slot in 1..32 {
        assert_eq!(bus.add(Toy::new()).unwrap(), slot);
    }
    assert_eq!(bus.present(), u32::MAX);
    assert!(matches!(bus.add(Toy::new()), Err(Error::NoFreeSlot)));
    let taken = bus.add_at(5, Toy::new());
    assert!(matches!(taken, Err(Error::SlotTaken { slot: 5 })));
    let absent = bus.add_at(32, Toy::new());
    assert!(matches!(absent, Err(Error::NoSuchSlot { slot: 32 })));

    let before = read_u32(&bus, 7, 0x10);
    write(&bus, 7, 4, &[2]);
    assert!(bus.read_memory(before.into(), &mut [0]));
    assert!(bus.remove(7).is_some());
    assert!(bus.remove(7).is_none());
    assert!(bus.remove(99).is_none());
    assert!(!bus.read_memory(before.into(), &mut [0]));
    assert_eq!(read_u32(&bus, 7, 0), u32::MAX);
    assert_eq!(bus.add(Toy::new()).unwrap(), 7);
    assert_eq!(read_u32(&bus, 7, 0x10), before);
}

#[test]
fn a_function_without_room_leaves_the_bus_as_it_was() {
    let mut small = layout();
    small.mem64 = MEM64..MEM64 + 0x1_8000;
    let bus = Bus::new(small).unwrap();
    bus.add(Toy::new()).unwrap();
    let refused = bus.add(Toy::new());
    assert!(matches!(
        refused,
        Err(Error::NoRoom {
            size: 0x1_0000,
            window: "64-bit"
        })
    ));
    assert_eq!(bus.present(), 0b11);
    // Its 32-bit BAR, which had room, is free again.
    bus.remove(1);
    bus.add(Toy::new()).unwrap();
    assert_eq!(read_u32(&bus, 1, 0x10), MEM32 as u32);
}

#[test]
fn layouts_that_can_not_be_are_refused() {
    let wrong = |change: fn(&mut BusLayout)| {
        let mut layout = layout();
        change(&mut layout);
        matches!(Bus::new(layout), Err(Error::Window { .. }))
    };
    assert!(wrong(|l| l.ecam += 4096));
    assert!(wrong(|l| l.ecam = 1 << 32));
    assert!(wrong(|l| l.mem32 = 0x1000..0x1000));
    assert!(wrong(|l| l.mem32.end = 1 << 33));
    assert!(wrong(|l| l.mem64.start += 1));
    assert!(wrong(|l| l.mem64.end = 1 << 40));
}

#[test]
fn a_reset_gives_every_function_its_first_place() {
    let bus = Bus::new(layout()).unwrap();
    bus.add(Toy::new()).unwrap();
    bus.add(Toy::new()).unwrap();
    let spaces = || -> Vec<[u8; 256]> { (1..3).map(|slot| read(&bus, slot, 0)).collect() };
    let first = spaces();
    for slot in 1..3 {
        // Both at one place, decoded; and whatever else can be written.
        write(&bus, slot, 0x10, &(MEM32 as u32 + 0x8_0000).to_le_bytes());
        write(&bus, slot, 0x04, &[2, 0]);
        write(&bus, slot, 0x3c, &[7]);
    }
    bus.write_port(0, &0x8000_0800_u32.to_le_bytes());
    assert!(bus.read_memory(MEM32 + 0x8_0000, &mut [0]));
    assert_ne!(spaces(), first);
    bus.reset().unwrap();
    assert_eq!(spaces(), first);
    assert!(!bus.read_memory(MEM32 + 0x8_0000, &mut [0]));
    assert_eq!(port_read(&bus, 0), [0; 4]);
    // The windows are as full as before, and no fuller.
    for _ in 0..100 {
        bus.reset().unwrap();
    }
    assert_eq!(spaces(), first);
}
