//! What is done with an input, by the fuzz targets and by the test that replays their corpus.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use strata_net::test_utils::MockNic;
use strata_net::{Card, CardConfig, HEADER_LEN, Link, RateLimit, stream_backend};
use strata_virtio::test_utils::{Buffer, MockDriver, fuzz_queues};
use vm_memory::{Bytes, GuestAddress};

/// More than that of an input is cut off: what the far end sends has to fit into its socket.
const MAX_INPUT: usize = 1 << 16;
/// The largest frame that a stream carries.
const MAX_FRAME: usize = 65_553;

fn card() -> (UnixStream, MockNic, Link) {
    let (far, card) = bare_card();
    let link = card.link();
    (far, MockNic::new(card, u64::MAX, 2048), link)
}

fn bare_card() -> (UnixStream, Card) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let config = CardConfig {
        name: "fuzz".to_owned(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        mtu: 1500,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    };
    let card = Card::new(config, stream_backend(near).unwrap()).unwrap();
    (far, card)
}

/// Whatever a guest does to registers and rings, while frames come in.
pub(crate) fn queues(input: &[u8]) {
    let (mut far, card) = bare_card();
    let mut driver = MockDriver::new(Box::new(card));
    driver.start(u64::MAX);
    for len in [14_u32, 60, 1514] {
        far.write_all(&len.to_be_bytes()).unwrap();
        far.write_all(&vec![0x5a; len as usize]).unwrap();
    }
    fuzz_queues(&mut driver, input);
}

fn wait(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}

/// Commands: each a byte of length, class, command and data. Every one is answered, the card stays
/// whole, and its address that of one interface.
pub(crate) fn control(input: &[u8]) {
    let (_far, mut nic, _) = card();
    let mut rest = input;
    for _ in 0..64 {
        let [len, class, command, ..] = *rest else {
            break;
        };
        let data = &rest[3..rest.len().min(3 + usize::from(len))];
        let ack = nic.command(2, class, command, data);
        assert!(ack <= 1, "{ack} is no acknowledgement");
        rest = &rest[3 + data.len()..];
    }
    let driver = nic.driver();
    assert!(!driver.needs_reset());
    let mac: [u8; 6] = driver.read_config(0);
    assert!(mac[0] & 1 == 0 && mac != [0; 6], "{mac:?}");
}

/// Whatever comes over the stream, the guest gets its whole frames and no more, up to the first
/// that can not be.
pub(crate) fn stream(input: &[u8]) {
    let input = &input[..input.len().min(MAX_INPUT)];
    let (mut far, mut nic, link) = card();
    far.write_all(input).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let mut rest = input;
    while let Some((prefix, bytes)) = rest.split_first_chunk() {
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME || len > bytes.len() {
            break;
        }
        let mut frame = None;
        wait(|| {
            frame = nic.receive();
            frame.is_some()
        });
        assert!(
            frame.unwrap()[HEADER_LEN..] == bytes[..len],
            "a frame arrives changed"
        );
        rest = &bytes[len..];
    }
    // The end, or what can not be, is counted once.
    wait(|| link.statistics().rx_errors == 1);
    assert!(nic.receive().is_none());
    assert!(!nic.driver().needs_reset());
}

/// A frame in pieces: the first byte says how many, and the rest is cut evenly. It arrives as it is,
/// or breaks the card if it has no header.
pub(crate) fn send(input: &[u8]) {
    let input = &input[..input.len().min(MAX_INPUT)];
    let Some((&pieces, frame)) = input.split_first() else {
        return;
    };
    if frame.is_empty() {
        return;
    }
    let (mut far, mut nic, _) = card();
    let driver = nic.driver();
    let size = frame.len().div_ceil(usize::from(pieces % 32) + 1);
    let parts: Vec<&[u8]> = frame.chunks(size).collect();
    let room = driver.allocate(0x2_0000);
    let memory = driver.memory().clone();
    let mut chain = Vec::new();
    let mut at = room;
    for part in parts {
        memory.write_slice(part, GuestAddress(at)).unwrap();
        chain.push(Buffer {
            addr: at,
            len: part.len() as u32,
            writable: false,
        });
        at += part.len() as u64;
    }
    driver.queue(1).add(&chain).unwrap();
    driver.kick(1);
    if frame.len() < HEADER_LEN {
        driver.wait_needs_reset();
        return;
    }
    let payload = &frame[HEADER_LEN..];
    let mut sent = vec![0; 4 + payload.len()];
    far.read_exact(&mut sent).unwrap();
    assert_eq!(sent[..4], (payload.len() as u32).to_be_bytes());
    assert!(sent[4..] == *payload, "a frame leaves changed");
    assert!(!driver.needs_reset());
}

/// Whatever the kernel may answer about its tables.
pub(crate) fn netlink(input: &[u8]) {
    strata_net::test_utils::read_netlink(input);
}
