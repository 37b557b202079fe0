use strata_pci::{BarKind, Bus, Capability, ConfigSpace, Error, Identity};

use crate::toy::{MEM32, MEM64, Toy, layout, read, read_u32, write};

#[test]
fn a_header_says_who_is_there() {
    let bus = Bus::new(layout()).unwrap();
    assert_eq!(read_u32(&bus, 0, 0), 0x0008_1b36);
    assert_eq!(read::<2>(&bus, 0, 0x0a), [0x00, 0x06], "a host bridge");
    let slot = bus.add(Toy::new()).unwrap();
    assert_eq!(slot, 1);
    assert_eq!(read_u32(&bus, 1, 0), 0x5678_1234);
    assert_eq!(read_u32(&bus, 1, 8), 0xff00_0007);
    assert_eq!(read_u32(&bus, 1, 0x2c), 0xdef0_9abc);
    assert_eq!(read::<1>(&bus, 1, 0x0e), [0], "one function");
    assert_eq!(read_u32(&bus, 2, 0), u32::MAX, "an empty slot");
}

#[test]
fn capabilities_are_a_list() {
    let bus = Bus::new(layout()).unwrap();
    bus.add(Toy::new()).unwrap();
    assert_eq!(read::<1>(&bus, 1, 6), [0x10], "there is one");
    assert_eq!(read::<1>(&bus, 1, 0x34), [0x40]);
    assert_eq!(read::<6>(&bus, 1, 0x40), [9, 0x48, 6, 1, 2, 3]);
    assert_eq!(
        read::<12>(&bus, 1, 0x48),
        [0x11, 0, 3, 0, 2, 0x80, 0, 0, 2, 0x90, 0, 0]
    );
}

#[test]
fn only_what_may_be_written_is() {
    let bus = Bus::new(layout()).unwrap();
    bus.add(Toy::new()).unwrap();
    let before: [u8; 256] = read(&bus, 1, 0);
    for at in 0..256_u16 {
        write(&bus, 1, at, &[!before[usize::from(at)]]);
    }
    let after: [u8; 256] = read(&bus, 1, 0);
    let mut changed: Vec<_> = (0..256).filter(|at| before[*at] != after[*at]).collect();
    changed.retain(|at| !(0x10..0x20).contains(at));
    // Command, interrupt line, the capability's byte, MSI-X message control.
    assert_eq!(changed, [4, 5, 0x3c, 0x44, 0x4b]);
    assert_eq!(after[4], 0b0100_0110);
    assert_eq!(after[0x4b], 0xc0);
}

#[test]
fn bars_are_sized_and_moved_and_decoded_when_enabled() {
    let bus = Bus::new(layout()).unwrap();
    let toy = Toy::new();
    bus.add(toy.clone()).unwrap();
    assert_eq!(read_u32(&bus, 1, 0x10), MEM32 as u32, "as firmware does");
    assert_eq!(read_u32(&bus, 1, 0x18), MEM64 as u32 | 0b100);
    assert_eq!(read_u32(&bus, 1, 0x1c), (MEM64 >> 32) as u32);
    let mut data = [0; 4];
    assert!(!bus.read_memory(MEM32, &mut data), "not yet decoded");
    write(&bus, 1, 4, &[2, 0]);
    assert!(bus.read_memory(MEM32 + 4, &mut data));
    assert_eq!(data, [4, 5, 6, 7]);
    assert!(bus.read_memory(MEM64 + 0xffff, &mut data));
    assert_eq!(data[0], 0x5f);
    assert!(!bus.read_memory(MEM64 + 0x1_0000, &mut data));

    for (register, mask) in [
        (0x10, 0xffff_f000),
        (0x14, 0),
        (0x18, 0xffff_0004),
        (0x1c, u32::MAX),
        (0x20, 0),
        (0x24, 0),
        (0x30, 0),
    ] {
        write(&bus, 1, register, &[0xff; 4]);
        assert_eq!(read_u32(&bus, 1, register), mask, "{register:#x}");
    }
    // A 64-bit BAR at the end of the address space would wrap.
    assert!(!bus.read_memory(u64::MAX - 0xffff, &mut data));
    assert!(bus.read_memory(0xffff_f000, &mut data), "all ones decode");

    write(&bus, 1, 0x18, &0xdead_beef_u32.to_le_bytes());
    write(&bus, 1, 0x1c, &1_u32.to_le_bytes());
    assert!(!bus.write_memory(MEM64, &[1]));
    assert!(bus.write_memory(0x1_dead_1234, &[1, 2]));
    assert_eq!(toy.writes.lock().unwrap()[..], [(2, 0x1234, vec![1, 2])]);
    write(&bus, 1, 4, &[0, 0]);
    assert!(!bus.write_memory(0x1_dead_1234, &[1]), "decode is off");
}

#[test]
fn what_can_not_be_is_refused() {
    let mut config = ConfigSpace::new(&Identity::default());
    for (bar, kind, size) in [
        (0, BarKind::Memory32, 8),
        (0, BarKind::Memory32, 0),
        (0, BarKind::Memory32, 24),
        (0, BarKind::Memory32, 1 << 32),
        (6, BarKind::Memory32, 16),
        (5, BarKind::Memory64, 16),
    ] {
        let refused = config.add_bar(bar, kind, size);
        assert!(matches!(refused, Err(Error::Bar { .. })), "{bar} {size}");
    }
    config.add_bar(2, BarKind::Memory64, 1 << 40).unwrap();
    assert!(config.add_bar(2, BarKind::Memory32, 16).is_err());
    assert!(config.add_bar(3, BarKind::Memory32, 16).is_err());
    assert!(config.add_bar(1, BarKind::Memory64, 16).is_err());
    config.add_bar(1, BarKind::Memory32, 16).unwrap();
    let large = Capability::vendor(&[0; 100], &[]);
    config.add_capability(&large).unwrap();
    let refused = config.add_capability(&large);
    assert!(matches!(refused, Err(Error::CapabilityRoom { len: 103 })));
}

#[test]
fn a_saved_space_continues_in_its_like_and_in_no_other() {
    let bus = Bus::new(layout()).unwrap();
    let identity = Identity {
        vendor: 1,
        ..Identity::default()
    };
    let mut config = ConfigSpace::new(&identity);
    config.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    let mut fresh = config.clone();
    config.write(4, &[2]);
    config.write(0x10, &[0xff; 4]);
    let json = serde_json::to_string(&config.state()).unwrap();
    let state = serde_json::from_str(&json).unwrap();
    fresh.set_state(&state).unwrap();
    assert!(fresh.ranges().eq(config.ranges()));
    assert_eq!(fresh.ranges().count(), 1);

    let mut other = ConfigSpace::new(&identity);
    assert!(other.set_state(&state).is_err(), "it has no such BAR");
    let mut short = state.clone();
    short.bytes.pop();
    assert!(fresh.set_state(&short).is_err());
    drop(bus);
}
