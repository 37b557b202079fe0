use std::time::Duration;

use strata_virtio::features::{RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1};
use strata_virtio::test_utils::{Buffer, MockDriver};

use crate::echo::Echo;

fn driver() -> MockDriver {
    MockDriver::new(Box::new(Echo::new()))
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let driver = driver();
    let mut header = [0; 64];
    driver.read_config_space(0, &mut header);
    assert_eq!(header[..4], [0xf4, 0x1a, 0x40 + 42, 0x10]);
    assert!(header[8] >= 1, "a revision that is not transitional");
    let ids: Vec<_> = driver.capabilities().iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, [9, 9, 9, 9, 0x11, 9]);
    assert_eq!(
        driver.offered(),
        VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC | 1
    );
    assert_eq!(driver.num_queues(), 2);
    assert_eq!(driver.read_config::<u32>(4), 0x0706_0504);
}

#[test]
fn a_queue_that_was_left_out_can_not_be_enabled_later() {
    let mut driver = driver();
    driver.negotiate(u64::MAX);
    driver.set_up_queue(0, Some(8));
    driver.driver_ok();
    driver.write_queue(1, 8, [0x10_0000, 0x11_0000, 0x12_0000]);
    let enabled: u16 = driver.read_common(0x1c);
    let size: u16 = driver.read_common(0x18);
    assert_eq!((enabled, size), (0, 256));
    driver.force_kick(1);
    assert_eq!(driver.request(0, &[b"alive"], &[5]).written, b"alive");
}

#[test]
fn kicks_follow_the_bar() {
    let mut driver = driver();
    driver.start(u64::MAX);
    let before = driver.binder().addresses();
    assert_eq!(before, [driver.notify_address(0), driver.notify_address(1)]);

    let moved = 0x7f_1234_0000_u64;
    driver.write_config_space(0x10, &(moved as u32).to_le_bytes());
    driver.write_config_space(0x14, &((moved >> 32) as u32).to_le_bytes());
    driver.probe();
    assert_eq!(driver.notify_address(0) & !0x7fff, moved & !0x7fff);
    let after = driver.binder().addresses();
    assert_eq!(after, [driver.notify_address(0), driver.notify_address(1)]);
    assert_eq!(driver.request(0, &[b"moved"], &[5]).written, b"moved");

    driver.write_config_space(4, &[0, 0]);
    assert!(
        driver.binder().addresses().is_empty(),
        "memory is not decoded"
    );
    driver.write_config_space(4, &[6, 0]);
    assert_eq!(driver.binder().addresses(), after);
    driver.reset();
    assert!(driver.binder().addresses().is_empty());
}

#[test]
fn a_kick_that_exits_is_a_kick() {
    let mut driver = driver();
    driver.start(u64::MAX);
    for width in [1, 2, 4] {
        driver.add(1, &[b"by an exit"], &[10]);
        driver.write(driver.notify_address(1), &[1, 0, 0, 0][..width]);
        assert_eq!(driver.wait_used(1).written, b"by an exit");
    }
}

#[test]
fn with_event_idx_the_driver_is_interrupted_when_it_asked_to_be() {
    let mut driver = driver();
    driver.start(u64::MAX);
    driver.queue(1).set_used_event(4);
    for round in 0..8_u16 {
        driver.add(1, &[b"x"], &[1]);
        driver.kick(1);
        driver.wait_until("it is used", |driver| {
            driver.device().state(); // Takes the lock, as other vCPUs may.
            true
        });
        while driver.queue(1).used_idx() != round + 1 {
            std::thread::yield_now();
        }
        let interrupted = driver.wait_interrupt(2, Duration::from_millis(20));
        assert_eq!(interrupted, round == 4, "round {round}");
    }
    assert_eq!(
        driver.queue(1).avail_event(),
        8,
        "and says the same of kicks"
    );
}

#[test]
fn without_event_idx_flags_decide() {
    let mut driver = driver();
    driver.start(0);
    driver.queue(1).set_avail_flags(1);
    driver.add(1, &[b"x"], &[1]);
    driver.kick(1);
    assert!(!driver.wait_interrupt(2, Duration::from_millis(50)));
    assert!(driver.take_used(1).is_some());
    driver.queue(1).set_avail_flags(0);
    driver.request(1, &[b"x"], &[1]);
}

#[test]
fn without_msix_the_isr_tells() {
    let mut driver = driver();
    driver.start(0);
    let control = driver.capabilities()[4].0 + 2;
    driver.write_config_space(control, &[0, 0]);
    driver.add(0, &[b"x"], &[1]);
    driver.kick(0);
    driver.wait_until("the ISR says so", |driver| driver.read_isr() == 1);
    assert!(!driver.wait_interrupt(1, Duration::from_millis(20)));
    assert!(driver.take_used(0).is_some());
}

#[test]
fn indirect_tables_are_followed_if_negotiated() {
    let mut driver = driver();
    driver.start(u64::MAX);
    driver.add_indirect(0, &[b"by", b" table"], &[4, 4]);
    driver.kick(0);
    assert_eq!(driver.wait_used(0).written, b"by table");
    driver.start(0);
    driver.add_indirect(0, &[b"by", b" table"], &[4, 4]);
    driver.kick(0);
    driver.wait_needs_reset();
}

#[test]
fn a_full_ring_wraps_for_ever() {
    let mut driver = driver();
    driver.start(u64::MAX);
    let base = driver.allocate(64 * 256);
    for _ in 0..600 {
        for chain in 0..128_u64 {
            let at = |offset| base + chain * 64 + offset;
            let buffers = [
                Buffer {
                    addr: at(0),
                    len: 8,
                    writable: false,
                },
                Buffer {
                    addr: at(32),
                    len: 8,
                    writable: true,
                },
            ];
            driver.queue(1).add(&buffers).unwrap();
        }
        assert!(driver.queue(1).add(&[]).is_none());
        driver.kick(1);
        for _ in 0..128 {
            assert_eq!(driver.wait_used(1).len, 8);
        }
    }
    let all = 600_u32 * 128 % (1 << 16);
    assert_eq!(u32::from(driver.queue(1).next_used()), all, "it wrapped");
}

#[test]
fn the_pci_configuration_access_capability_reaches_the_bar() {
    let driver = driver();
    let at = driver.capabilities()[5].0;
    let select = |offset: u32, len: u32| {
        driver.write_config_space(at + 4, &[0]);
        driver.write_config_space(at + 8, &offset.to_le_bytes());
        driver.write_config_space(at + 12, &len.to_le_bytes());
    };
    let read = || {
        let mut data = [0xff; 4];
        driver.read_config_space(at + 16, &mut data);
        u32::from_le_bytes(data)
    };
    select(0x12, 2);
    assert_eq!(read(), 2, "num_queues");
    select(0x14, 1);
    driver.write_config_space(at + 16, &[3]);
    assert_eq!(driver.status(), 3);
    assert_eq!(read(), 3);
    select(0x1004, 4);
    assert_eq!(read(), 0x0706_0504, "device configuration");
    for (offset, len) in [(1, 4), (0, 3), (0, 0), (0, 8), (0x8000, 4), (!3, 4)] {
        select(offset, len);
        read();
        driver.write_config_space(at + 16, &[0xff; 4]);
    }
    assert_eq!(driver.status(), 3);
}

#[test]
fn written_memory_is_in_the_dirty_log() {
    let mut driver = driver();
    driver.start(u64::MAX);
    let head = driver.add(0, &[b"dirt"], &[4]);
    let used_ring = driver.queue(0).used_ring;
    driver.ram().start_dirty().unwrap();
    driver.kick(0);
    let used = driver.wait_used(0);
    assert_eq!(used.head, head);
    let log = driver.ram().take_dirty().unwrap();
    let dirty = |at: u64| {
        log.ranges()
            .any(|range| (range.guest_base.0..range.guest_base.0 + range.len).contains(&at))
    };
    assert!(dirty(used_ring), "the used ring");
    assert!(dirty(4 << 20), "the buffer");
    assert!(!dirty(8 << 20));
}
