//! The control queue, configuration space and queue pairs.

use strata_net::test_utils::{MockNic, Namespace};
use strata_net::{Card, Error, Offloads, features};
use strata_virtio::Device;

use crate::guest::{ALL, config, tap, wait};

const OK: u8 = 0;
const ERR: u8 = 1;

fn card(queues: u16) -> (Namespace, Card) {
    let host = Namespace::new().unwrap();
    let tap = tap(&host, "tap0", queues, 1500, None);
    let card = Card::new(config(), tap.into_backend()).unwrap();
    (host, card)
}

#[test]
fn configuration_space_says_mac_link_pairs_and_mtu() {
    let (_host, card) = card(4);
    let link = card.link();
    let mut nic = MockNic::new(card, ALL, 2048);
    let driver = nic.driver();
    assert_eq!(
        driver.read_config::<[u8; 6]>(0),
        [0x52, 0x54, 0, 0x12, 0x34, 0x56]
    );
    assert_eq!(driver.read_config::<u16>(6), 1);
    assert_eq!(driver.read_config::<u16>(8), 4);
    assert_eq!(driver.read_config::<u16>(10), 1500);
    let generation = driver.generation();
    link.set_up(false);
    assert!(driver.wait_interrupt(0, std::time::Duration::from_secs(5)));
    assert_eq!(driver.read_config::<u16>(6), 0);
    assert_ne!(driver.generation(), generation);
    link.set_up(true);
    link.announce();
    assert_eq!(driver.read_config::<u16>(6), 3);
    assert_eq!(nic.command(8, 3, 0, &[]), OK);
    assert_eq!(nic.driver().read_config::<u16>(6), 1);
}

#[test]
fn configuration_space_has_an_end() {
    let (_host, card) = card(1);
    for offset in [0, 5, 11, 12, 13, 4096, u64::MAX] {
        let mut data = [0x55; 8];
        card.read_config(offset, &mut data);
        if offset >= 12 {
            assert_eq!(data, [0x55; 8]);
        }
    }
}

#[test]
fn commands_are_answered() {
    let (_host, card) = card(4);
    let mut nic = MockNic::new(card, ALL, 2048);
    let all_pairs = 4_u16.to_le_bytes();
    for (class, command, data, answer) in [
        // Receive modes, and filter tables of any size.
        (0, 0, &[1][..], OK),
        (0, 5, &[0][..], OK),
        (0, 6, &[0][..], ERR),
        (1, 0, &[0; 800][..], OK),
        // The MAC address: a good one, a multicast one, one that is too short.
        (1, 1, &[2, 0, 0, 0, 0, 9][..], OK),
        (1, 1, &[3, 0, 0, 0, 0, 9][..], ERR),
        (1, 1, &[2, 0, 0, 0, 0][..], ERR),
        // VLAN filters are not offered.
        (2, 0, &[7, 0][..], ERR),
        // Queue pairs.
        (4, 0, &all_pairs[..], OK),
        (4, 0, &[1, 0][..], OK),
        (4, 0, &[0, 0][..], ERR),
        (4, 0, &[5, 0][..], ERR),
        (4, 0, &[1][..], ERR),
        (4, 1, &[1, 0][..], ERR),
        // Offloads: none, checksums, one that there is not, and too few bytes.
        (5, 0, &[0; 8][..], OK),
        (5, 0, &[2, 0, 0, 0, 0, 0, 0, 0][..], OK),
        (5, 0, &[0, 0, 0, 0, 1, 0, 0, 0][..], ERR),
        (5, 0, &[0; 7][..], ERR),
        (9, 9, &[][..], ERR),
    ] {
        assert_eq!(
            nic.command(8, class, command, data),
            answer,
            "{class} {command} {data:?}"
        );
    }
    assert_eq!(nic.driver().read_config::<[u8; 6]>(0), [2, 0, 0, 0, 0, 9]);
    assert!(!nic.driver().needs_reset());
}

#[test]
fn an_address_that_a_driver_sets_is_gone_with_it() {
    let (_host, card) = card(1);
    let mut nic = MockNic::new(card, ALL, 2048);
    assert_eq!(nic.command(2, 1, 1, &[2, 0, 0, 0, 0, 9]), OK);
    assert_eq!(nic.driver().read_config::<[u8; 6]>(0), [2, 0, 0, 0, 0, 9]);
    nic.driver().reset();
    assert_eq!(
        nic.driver().read_config::<[u8; 6]>(0),
        [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        "the next driver would be another machine to the network"
    );
}

#[test]
fn without_mq_the_control_queue_is_the_third() {
    let (_host, card) = card(2);
    let mut nic = MockNic::new(card, ALL & !features::MQ, 2048);
    assert_eq!(nic.command(2, 0, 0, &[1]), OK);
    assert_eq!(nic.command(2, 4, 0, &[1, 0]), ERR, "MQ was not negotiated");
}

#[test]
fn commands_that_break_the_rules_break_the_card() {
    for (readable, writable) in [(&[&[0_u8, 0][..]][..], &[][..]), (&[][..], &[][..])] {
        let (_host, card) = card(1);
        let mut nic = MockNic::new(card, ALL, 2048);
        let driver = nic.driver();
        if readable.is_empty() {
            driver.queue(2).publish(0xffff);
        } else {
            driver.add(2, readable, writable);
        }
        driver.kick(2);
        driver.wait_needs_reset();
    }
}

#[test]
fn only_the_pairs_in_use_get_frames() {
    let (host, card) = card(4);
    let link = card.link();
    host.ip("address add 192.0.2.1/24 dev tap0").unwrap();
    host.ip("neighbour add 192.0.2.2 lladdr 52:54:00:12:34:56 dev tap0")
        .unwrap();
    let mut nic = MockNic::new(card, ALL, 2048);
    // Flows by many ports would spread over all queues.
    let flood = |count: u16| {
        host.run(|| {
            for _ in 0..count {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"flow", "192.0.2.2:9").unwrap();
            }
        });
    };
    flood(100);
    let got = wait("all frames at the first pair", || {
        while nic.receive().is_some() {}
        let frames = link.statistics().rx_frames;
        (frames >= 100).then_some(frames)
    });
    assert!(got >= 100);
    assert_eq!(nic.command(8, 4, 0, &[4, 0]), OK);
    for pair in 1..4 {
        for _ in 0..64 {
            nic.driver().add(pair * 2, &[], &[2048]);
        }
        nic.driver().kick(pair * 2);
    }
    flood(200);
    wait("frames at the other pairs", || {
        while nic.receive().is_some() {}
        let mut others = 0;
        for pair in 1..4 {
            others += nic.driver().queue(pair * 2).used_idx();
        }
        (others > 0).then_some(())
    });
}

#[test]
fn cards_that_can_not_be_are_refused() {
    let (_host, _) = card(1);
    let host = Namespace::new().unwrap();
    let mut config = config();
    config.mtu = 67;
    let backend = tap(&host, "tap1", 1, 1500, None).into_backend();
    assert!(matches!(
        Card::new(config.clone(), backend),
        Err(Error::InvalidMtu { mtu: 67 })
    ));
    config.mtu = 68;
    let mut backend = tap(&host, "tap2", 1, 1500, None).into_backend();
    backend.endpoints.clear();
    assert!(matches!(
        Card::new(config, backend),
        Err(Error::NoEndpoint { count: 0 })
    ));
}

#[test]
fn offered_offloads_are_those_of_the_host() {
    let host = Namespace::new().unwrap();
    let tap = tap(&host, "tap0", 1, 1500, None);
    let uso = tap.known_offloads().contains(Offloads::USO);
    let card = Card::new(config(), tap.into_backend()).unwrap();
    let offered = card.features();
    for feature in [
        features::CSUM,
        features::GUEST_CSUM,
        features::HOST_TSO4,
        features::GUEST_TSO6,
    ] {
        assert_ne!(offered & feature, 0);
    }
    assert_eq!(offered & features::HOST_USO != 0, uso);
    assert_eq!(offered & features::MQ, 0);
}
