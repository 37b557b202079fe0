//! Rings that somebody else serves: who has them when, and that nothing is lost or done twice.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use strata_net::test_utils::{MockNic, MockVhost};
use strata_net::{Backend, Card, CardConfig, Error, HEADER_LEN, Link, RateLimit, stream_backend};
use strata_virtio::{QueueState, features};

use crate::guest::{ALL, config, wait};

/// What a send queue carries: a header, and a frame of 60 bytes.
const FRAME: [u8; HEADER_LEN + 60] = [0; HEADER_LEN + 60];

/// A card whose rings the returned double can serve, and the far end of its wire.
struct Setup {
    vhost: MockVhost,
    nic: MockNic,
    link: Link,
    far: UnixStream,
}

fn backend(vhost: &MockVhost) -> (Backend, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut backend = stream_backend(near).unwrap();
    backend.vhost = vec![Box::new(vhost.clone())];
    (backend, far)
}

fn set_up(vhost: MockVhost) -> Setup {
    let (backend, far) = backend(&vhost);
    let card = Card::new(config(), backend).unwrap();
    let link = card.link();
    let nic = MockNic::new(card, ALL, 2048);
    Setup {
        vhost,
        nic,
        link,
        far,
    }
}

impl Setup {
    fn handed_over(&self) -> [QueueState; 2] {
        wait("the rings are handed over", || self.vhost.serves())
    }

    fn taken_back(&self) {
        wait("the rings are taken back", || {
            self.vhost.serves().is_none().then_some(())
        });
    }

    /// Sends a frame that the card has to carry.
    fn send_here(&mut self) {
        assert!(self.nic.send(&FRAME));
        let mut bytes = [0; 4 + 60];
        self.far.read_exact(&mut bytes).unwrap();
    }

    /// Sends a frame that the double has to carry.
    fn send_there(&mut self) {
        assert!(self.nic.send(&FRAME));
        self.vhost.use_chain(1, 0);
    }

    fn sent_here(&self) -> u64 {
        self.link.statistics().tx_frames
    }
}

#[test]
fn the_kernel_serves_from_the_first_kick_on() {
    let mut setup = set_up(MockVhost::default());
    let [rx, tx] = setup.handed_over();
    assert_eq!((rx.next_avail, tx.next_avail), (0, 0));
    let negotiated = setup.nic.driver().accepted();
    assert_eq!(setup.vhost.features(), negotiated);
    assert_ne!(negotiated & features::VERSION_1, 0);
    // Nobody here takes what it is kicked for, or what comes.
    assert!(setup.nic.send(&FRAME));
    std::io::Write::write_all(&mut setup.far, &60_u32.to_be_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(setup.link.statistics(), strata_net::Statistics::default());
    setup.vhost.use_chain(1, 0);
    // Commands are answered here all the same.
    assert_eq!(setup.nic.command(2, 0, 0, &[1]), 0);
    setup.vhost.use_chain(0, FRAME.len() as u32);
    assert_eq!(setup.nic.receive().map(|frame| frame.len()), Some(72));
}

#[test]
fn a_link_that_goes_down_takes_the_rings_back_where_they_are() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    for _ in 0..3 {
        setup.send_there();
    }
    setup.vhost.use_chain(0, 72);
    setup.link.set_up(false);
    setup.taken_back();
    for _ in 0..2 {
        assert!(setup.nic.send(&FRAME));
    }
    wait("frames of a link that is down are dropped", || {
        (setup.link.statistics().tx_dropped == 2).then_some(())
    });
    setup.link.set_up(true);
    let [rx, tx] = setup.handed_over();
    assert_eq!((rx.next_avail, rx.next_used), (1, 1));
    assert_eq!((tx.next_avail, tx.next_used), (5, 5));
    setup.send_there();
    assert_eq!(setup.sent_here(), 0);
    // Every buffer has come back to the driver.
    for _ in 0..64 {
        setup.send_there();
    }
    assert!(!setup.nic.driver().needs_reset());
}

#[test]
fn indices_go_over_and_come_back_when_they_wrap() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    for round in 0..70_u32 {
        for _ in 0..1000 {
            setup.send_there();
        }
        setup.link.allow_vhost(false);
        setup.taken_back();
        setup.send_here();
        setup.link.allow_vhost(true);
        let [_, tx] = setup.handed_over();
        assert_eq!(tx.next_avail, ((round + 1) * 1001) as u16);
        assert_eq!(tx.next_used, tx.next_avail);
    }
    assert_eq!(setup.sent_here(), 70);
}

#[test]
fn a_pause_has_the_rings_here_and_a_resume_gives_them_away() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    setup.send_there();
    let device = setup.nic.driver().device().clone();
    device.pause().unwrap();
    assert!(setup.vhost.serves().is_none());
    let queue = device.state().queues[1].queue;
    assert_eq!((queue.next_avail, queue.next_used), (1, 1));
    assert!(setup.nic.send(&FRAME));
    setup.link.allow_vhost(false);
    device.resume().unwrap();
    // It stays here while it has to.
    let mut bytes = [0; 4 + 60];
    setup.far.read_exact(&mut bytes).unwrap();
    assert!(setup.vhost.serves().is_none());
    setup.link.allow_vhost(true);
    let [_, tx] = setup.handed_over();
    assert_eq!((tx.next_avail, tx.next_used), (2, 2));
}

#[test]
fn a_reset_takes_the_rings_back_and_the_next_driver_gives_them_away() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    for _ in 0..3 {
        setup.send_there();
        setup.nic.driver().reset();
        assert!(setup.vhost.serves().is_none(), "rings of a reset card");
        setup.nic.restart(ALL);
        let [rx, tx] = setup.handed_over();
        assert_eq!((rx.next_avail, tx.next_avail), (0, 0));
    }
    // So does taking the card out.
    let Setup { vhost, nic, .. } = setup;
    drop(nic);
    assert!(vhost.serves().is_none());
}

#[test]
fn rings_that_the_kernel_does_not_take_are_served_here() {
    let vhost = MockVhost::default();
    vhost.refuse();
    let mut setup = set_up(vhost);
    for _ in 0..100 {
        setup.send_here();
    }
    assert!(setup.vhost.serves().is_none());
}

#[test]
fn rings_that_the_kernel_gives_up_are_served_here() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    setup.send_there();
    setup.vhost.fail();
    setup.taken_back();
    for _ in 0..100 {
        setup.send_here();
    }
    // Until the driver sets them up anew.
    setup.link.set_up(false);
    setup.link.set_up(true);
    setup.send_here();
    assert!(setup.vhost.serves().is_none());
    setup.nic.driver().reset();
    setup.nic.restart(ALL);
    setup.handed_over();
}

#[test]
fn a_bad_ring_breaks_the_card_though_the_kernel_had_it() {
    let mut setup = set_up(MockVhost::default());
    setup.handed_over();
    setup.nic.driver().queue(1).publish(0xffff);
    setup.vhost.fail();
    setup.nic.driver().wait_needs_reset();
    assert!(setup.vhost.serves().is_none());
}

#[test]
fn the_kernel_knows_no_rate_limits() {
    for limit in [Some(1), None] {
        let (backend, _far) = backend(&MockVhost::default());
        let config = CardConfig {
            tx_limit: RateLimit {
                bytes: limit,
                frames: None,
            },
            ..config()
        };
        match Card::new(config, backend) {
            Err(error) => assert!(matches!(error, Error::VhostLimited), "{error}"),
            Ok(_) => assert_eq!(limit, None),
        }
    }
}
