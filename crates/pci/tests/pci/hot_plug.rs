use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use strata_pci::{Bus, Error, Function, HotPlug, HotPlugEvents, HotPlugState};

use crate::toy::{Toy, layout, read_u32};

#[derive(Default)]
struct Events {
    notified: AtomicU32,
    ejected: Mutex<Vec<u8>>,
}

impl HotPlugEvents for Events {
    fn notify(&self) {
        self.notified.fetch_add(1, Ordering::Relaxed);
    }

    fn ejected(&self, slot: u8, _function: Arc<dyn Function>) {
        self.ejected.lock().unwrap().push(slot);
    }
}

fn machine(slots: u32) -> (Arc<Bus>, Arc<Events>, HotPlug) {
    let bus = Arc::new(Bus::new(layout()).unwrap());
    let events = Arc::new(Events::default());
    let hot_plug = HotPlug::new(bus.clone(), slots, events.clone());
    (bus, events, hot_plug)
}

fn read(hot_plug: &HotPlug, offset: u16) -> u32 {
    let mut data = [0xff; 4];
    hot_plug.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn a_function_comes_and_goes_as_the_guest_sees_it() {
    let (bus, events, hot_plug) = machine(0b1100);
    assert_eq!(hot_plug.add(Toy::new()).unwrap(), 2);
    assert_eq!(hot_plug.add(Toy::new()).unwrap(), 3);
    assert!(matches!(hot_plug.add(Toy::new()), Err(Error::NoFreeSlot)));
    assert_eq!(events.notified.load(Ordering::Relaxed), 2);
    assert_eq!(read(&hot_plug, 0), 0b1100);
    assert_eq!(read(&hot_plug, 0), 0, "reading clears");
    assert_eq!(read(&hot_plug, 4), 0);
    assert_eq!(read_u32(&bus, 2, 0), 0x5678_1234);

    hot_plug.request_removal(2).unwrap();
    assert_eq!(read_u32(&bus, 2, 0), 0x5678_1234, "until the guest says so");
    assert_eq!(read(&hot_plug, 4), 0b100);
    hot_plug.write(8, &0b100_u32.to_le_bytes());
    assert_eq!(read_u32(&bus, 2, 0), u32::MAX);
    assert_eq!(*events.ejected.lock().unwrap(), [2]);
    let again = hot_plug.request_removal(2);
    assert!(matches!(again, Err(Error::SlotEmpty { slot: 2 })));
    assert_eq!(hot_plug.add(Toy::new()).unwrap(), 2);
}

#[test]
fn slots_without_hot_plug_stay() {
    let (bus, events, hot_plug) = machine(!0b10);
    bus.add_at(1, Toy::new()).unwrap();
    for slot in [0, 1, 32, 255] {
        let refused = hot_plug.request_removal(slot);
        assert!(matches!(refused, Err(Error::NotHotPluggable { .. })));
    }
    hot_plug.write(8, &[0xff; 4]);
    assert_eq!(bus.present(), 0b11);
    assert!(events.ejected.lock().unwrap().is_empty());
}

#[test]
fn an_eject_forgets_what_was_to_be_told() {
    let (_, _, hot_plug) = machine(0b10);
    hot_plug.add(Toy::new()).unwrap();
    hot_plug.request_removal(1).unwrap();
    let state = HotPlugState {
        inserted: 2,
        removing: 2,
    };
    assert_eq!(hot_plug.state(), state);
    hot_plug.write(8, &[2, 0, 0, 0]);
    assert_eq!(hot_plug.state(), HotPlugState::default());
    hot_plug.set_state(&HotPlugState {
        inserted: u32::MAX,
        removing: 1,
    });
    assert_eq!(read(&hot_plug, 0), 2);
    assert_eq!(read(&hot_plug, 4), 0);
}

/// Asked twice, the second time just when the guest let go, nobody is left to be asked.
#[test]
fn a_removal_that_came_too_late_is_not_the_next_functions() {
    let (_, _, hot_plug) = machine(0b10);
    hot_plug.set_state(&HotPlugState {
        inserted: 0,
        removing: 2,
    });
    assert_eq!(hot_plug.add(Toy::new()).unwrap(), 1);
    assert_eq!(read(&hot_plug, 4), 0);
    assert_eq!(read(&hot_plug, 0), 2);
}

#[test]
fn other_accesses_do_nothing() {
    let (bus, _, hot_plug) = machine(0b10);
    hot_plug.add(Toy::new()).unwrap();
    for offset in 0..16 {
        for len in 0..9 {
            if (offset, len) != (8, 4) {
                hot_plug.write(offset, &[0xff; 8][..len]);
            }
            if len != 4 {
                let mut data = [0xff; 8];
                hot_plug.read(offset, &mut data[..len]);
                assert!(data[..len].iter().all(|byte| *byte == 0));
            }
        }
    }
    assert_eq!(bus.present(), 0b11);
    assert_eq!(read(&hot_plug, 0), 2);
}
