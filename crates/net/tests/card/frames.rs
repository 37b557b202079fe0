//! Frames as the rings carry them, and drivers that break the rules.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use strata_net::test_utils::{MockNic, Namespace};
use strata_net::{Card, HEADER_LEN, Link, Tap, features};
use strata_virtio::features::{RING_EVENT_IDX, RING_INDIRECT_DESC};
use strata_virtio::test_utils::{Buffer, MockDriver, hostile_suite};

use crate::guest::{ALL, config, tap, wait};

/// A card on a tap, and the descriptor of a second end: a tap in a bridge with the first.
struct Wire {
    _host: Namespace,
    far: File,
    _tap: Tap,
}

impl Wire {
    fn new() -> (Self, Card) {
        let host = Namespace::new().unwrap();
        host.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")
            .unwrap();
        host.ip("link set br0 addrgenmode none").unwrap();
        host.ip("link set br0 up").unwrap();
        let near = tap(&host, "near", 1, 1500, None);
        let far = tap(&host, "far", 1, 1500, None);
        for name in ["near", "far"] {
            host.ip(&format!("link set {name} master br0")).unwrap();
        }
        let card = Card::new(config(), near.into_backend()).unwrap();
        let file = File::from(far.queues()[0].as_fd().try_clone_to_owned().unwrap());
        let wire = Self {
            _host: host,
            far: file,
            _tap: far,
        };
        (wire, card)
    }

    /// The next frame at the far end that is a test's.
    fn next(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 0x1_1000];
        wait("a frame", || {
            let len = self.far.read(&mut frame).ok()?;
            let frame = &frame[HEADER_LEN..len];
            is_ours(frame).then(|| frame.to_vec())
        })
    }

    fn send(&mut self, frame: &[u8]) {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(frame);
        self.far.write_all(&bytes).unwrap();
    }
}

fn is_ours(frame: &[u8]) -> bool {
    frame[12..14] == [0x88, 0xb5] || frame[12..14] == [0x81, 0x00]
}

/// A broadcast of the local experimental EtherType, `len` bytes long.
fn frame(len: usize, mark: u8) -> Vec<u8> {
    let mut frame = vec![mark; len];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..14].copy_from_slice(&[0x52, 0x54, 0, 0, 0, mark, 0x88, 0xb5]);
    frame
}

fn with_header(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], frame].concat()
}

fn receive(nic: &mut MockNic) -> Vec<u8> {
    wait("a frame for the guest", || {
        nic.receive().filter(|frame| is_ours(&frame[HEADER_LEN..]))
    })
}

#[test]
fn frames_arrive_as_they_were_sent() {
    for features in [0, features::MRG_RXBUF, ALL & !RING_EVENT_IDX, ALL] {
        let (mut wire, card) = Wire::new();
        let mut nic = MockNic::new(card, features, 2048);
        for len in [14, 60, 1500, 1514] {
            assert!(nic.send(&with_header(&frame(len, 1))));
            assert_eq!(wire.next(), frame(len, 1));
            wire.send(&frame(len, 2));
            let received = receive(&mut nic);
            assert_eq!(received[HEADER_LEN..], frame(len, 2));
            assert_eq!(received[10..12], [1, 0], "num_buffers");
        }
    }
}

#[test]
fn frames_with_vlan_tags_pass() {
    let (mut wire, card) = Wire::new();
    let mut nic = MockNic::new(card, ALL, 2048);
    // The largest frame, and a tag more.
    let mut tagged = frame(1518, 9);
    tagged[12..18].copy_from_slice(&[0x81, 0x00, 0x60, 7, 0x88, 0xb5]);
    assert!(nic.send(&with_header(&tagged)));
    assert_eq!(wire.next(), tagged);
    wire.send(&tagged);
    assert_eq!(receive(&mut nic)[HEADER_LEN..], tagged);
}

#[test]
fn a_frame_lies_in_as_many_buffers_as_it_needs() {
    let (mut wire, card) = Wire::new();
    let mut nic = MockNic::new(card, features::MRG_RXBUF, 100);
    for len in [88, 89, 188, 189, 1514] {
        wire.send(&frame(len, 3));
        let received = receive(&mut nic);
        assert_eq!(received[HEADER_LEN..], frame(len, 3));
        let buffers = (len + HEADER_LEN).div_ceil(100) as u16;
        assert_eq!(received[10..12], buffers.to_le_bytes(), "{len}");
    }
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_the_next_arrives() {
    let (mut wire, card) = Wire::new();
    let link = card.link();
    let mut nic = MockNic::new(card, 0, 512);
    wire.send(&frame(1000, 4));
    wait("the drop", || {
        (link.statistics().rx_dropped > 0).then_some(())
    });
    wire.send(&frame(500, 5));
    assert_eq!(receive(&mut nic)[HEADER_LEN..], frame(500, 5));
}

#[test]
fn a_frame_waits_for_as_many_buffers_as_it_needs() {
    let (mut wire, mut driver, link) = started(features::MRG_RXBUF | RING_EVENT_IDX);
    driver.add(0, &[], &[100]);
    driver.kick(0);
    wire.send(&frame(350, 4));
    wire.send(&frame(50, 5));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(
        driver.take_used(0).is_none(),
        "a part of a frame is given to the driver"
    );
    // One at a time: each kick is wanted.
    for _ in 0..4 {
        driver.add(0, &[], &[100]);
        driver.kick(0);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut bytes = driver.wait_used(0).written;
    assert_eq!(bytes[10..12], [4, 0]);
    for _ in 1..4 {
        bytes.extend(driver.take_used(0).expect("all at once").written);
    }
    assert_eq!(bytes[HEADER_LEN..HEADER_LEN + 350], frame(350, 4));
    let used = driver.wait_used(0);
    assert_eq!(used.written[HEADER_LEN..HEADER_LEN + 50], frame(50, 5));
    assert_eq!(link.statistics().rx_dropped, 0);
    // And a pause gives the buffers of a waiting frame back.
    driver.add(0, &[], &[100]);
    driver.kick(0);
    wire.send(&frame(350, 6));
    std::thread::sleep(std::time::Duration::from_millis(50));
    driver.device().pause().unwrap();
    driver.device().resume().unwrap();
    wire.send(&frame(60, 7));
    assert_eq!(
        driver.wait_used(0).written[HEADER_LEN..HEADER_LEN + 60],
        frame(60, 7)
    );
    assert_eq!(link.statistics().rx_dropped, 1);
}

#[test]
fn scattered_and_indirect_frames_are_gathered() {
    let (mut wire, card) = Wire::new();
    let mut nic = MockNic::new(card, RING_INDIRECT_DESC, 2048);
    let bytes = with_header(&frame(200, 6));
    let driver = nic.driver();
    let pieces: Vec<&[u8]> = vec![&bytes[..1], &bytes[1..12], &bytes[12..13], &bytes[13..]];
    driver.add(1, &pieces, &[]);
    driver.kick(1);
    assert_eq!(wire.next(), frame(200, 6));
    driver.add_indirect(1, &pieces, &[]);
    driver.kick(1);
    assert_eq!(wire.next(), frame(200, 6));
}

#[test]
fn a_header_that_makes_no_sense_costs_its_frame_only() {
    let (mut wire, card) = Wire::new();
    let link = card.link();
    let mut nic = MockNic::new(card, ALL, 2048);
    for header in [
        [1, 1, 0xff, 0xff, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff],
        [0xff; HEADER_LEN],
    ] {
        assert!(nic.send(&[&header[..], &frame(60, 7)].concat()));
    }
    // No frame at all, and no Ethernet frame.
    assert!(nic.send(&[0; HEADER_LEN]));
    assert!(nic.send(&[0; HEADER_LEN + 1]));
    assert!(nic.send(&with_header(&frame(60, 8))));
    assert_eq!(wire.next(), frame(60, 8));
    let statistics = link.statistics();
    assert_eq!(
        (statistics.tx_errors, statistics.tx_frames),
        (5, 1),
        "{statistics:?}"
    );
    assert!(!nic.driver().needs_reset());
}

/// A started driver that has offered nothing, on a card whose wire is silent.
fn started(features: u64) -> (Wire, MockDriver, Link) {
    let (wire, card) = Wire::new();
    let link = card.link();
    let mut driver = MockDriver::new(Box::new(card));
    driver.start(features);
    (wire, driver, link)
}

#[test]
fn buffers_that_break_the_rules_break_the_card_and_no_more() {
    type Broken = (u16, &'static [&'static [u8]], &'static [u32]);
    let chains: [Broken; 4] = [
        // A receive buffer to be read, one without room for a header, and frames without headers.
        (0, &[b"readable"], &[2000]),
        (0, &[], &[11]),
        (1, &[b"short"], &[]),
        (1, &[], &[100]),
    ];
    for (queue, readable, writable) in chains {
        let (_wire, mut driver, _) = started(ALL);
        driver.add(queue, readable, writable);
        driver.kick(queue);
        driver.wait_needs_reset();
        // And a reset mends it.
        driver.start(ALL);
        assert!(!driver.needs_reset());
    }
    let (_wire, mut driver, _) = started(ALL);
    let at = driver.allocate(0x1_0000);
    let buffer = |addr| Buffer {
        addr,
        len: 1,
        writable: true,
    };
    let table = driver.allocate(0x1_0000);
    let buffers: Vec<_> = (0..300).map(|index| buffer(at + index)).collect();
    driver.queue(0).add_indirect(table, &buffers);
    driver.kick(0);
    driver.wait_needs_reset();
}

#[test]
fn a_pause_gives_unused_buffers_back_and_a_resume_takes_them_up() {
    let (mut wire, card) = Wire::new();
    let mut nic = MockNic::new(card, ALL, 2048);
    wire.send(&frame(100, 1));
    receive(&mut nic);
    for mark in 2..6 {
        let device = std::sync::Arc::clone(nic.driver().device());
        device.pause().unwrap();
        let queue = nic.driver().queue(0);
        let (used, in_flight) = (queue.used_idx(), queue.in_flight());
        wire.send(&frame(100, mark));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(
            (nic.driver().queue(0).used_idx()),
            used,
            "it works while it is paused"
        );
        assert_eq!(in_flight, 192);
        device.resume().unwrap();
        assert_eq!(receive(&mut nic)[HEADER_LEN..], frame(100, mark));
    }
}

#[test]
fn a_reset_at_any_time_leaves_a_card_that_works() {
    let (mut wire, card) = Wire::new();
    let mut driver = MockDriver::new(Box::new(card));
    for mark in 0..20 {
        driver.start(ALL);
        driver.add(0, &[], &[2048]);
        driver.kick(0);
        wire.send(&frame(100, mark));
        driver.add(1, &[&with_header(&frame(60, mark))], &[]);
        driver.kick(1);
        if mark % 2 == 0 {
            wait("the frame", || {
                driver
                    .take_used(0)
                    .filter(|used| used.written[24..26] == [0x88, 0xb5])
            });
        }
    }
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    for features in [0, RING_EVENT_IDX] {
        let (mut wire, mut driver, _) = started(features | features::MRG_RXBUF);
        for mark in 0..50 {
            driver.add(0, &[], &[2048]);
            driver.kick(0);
            wire.send(&frame(60, mark));
            // This fails without an interrupt.
            let used = driver.wait_used(0);
            assert_eq!(used.len, 72);
        }
    }
}

#[test]
fn no_ring_harms_the_machine() {
    hostile_suite(|| Box::new(Wire::new().1));
}
