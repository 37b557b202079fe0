//! Frames over a stream socket, and passt.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use strata_net::test_utils::{MockNic, Namespace};
use strata_net::{Card, Error, HEADER_LEN, Link, Passt, stream_backend};

use crate::guest::{ALL, Guest, config, wait};

const PATIENCE: Duration = Duration::from_secs(10);

fn wire() -> (UnixStream, MockNic, Link) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let card = Card::new(config(), stream_backend(near).unwrap()).unwrap();
    let link = card.link();
    (far, MockNic::new(card, ALL, 2048), link)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat()
}

fn frame(len: usize, mark: u8) -> Vec<u8> {
    vec![mark; len]
}

fn receive(nic: &mut MockNic) -> Vec<u8> {
    wait("a frame for the guest", || nic.receive()).split_off(HEADER_LEN)
}

#[test]
fn frames_pass_whole_however_the_stream_cuts_them() {
    let (mut far, mut nic, _) = wire();
    let bytes: Vec<u8> = (1..=40)
        .flat_map(|mark| framed(&frame(usize::from(mark) * 37, mark)))
        .collect();
    for piece in [1, 3, 5, 1000, bytes.len()] {
        let mut writer = far.try_clone().unwrap();
        let copy = bytes.clone();
        let sender = std::thread::spawn(move || {
            for part in copy.chunks(piece) {
                writer.write_all(part).unwrap();
            }
        });
        for mark in 1..=40 {
            assert_eq!(receive(&mut nic), frame(usize::from(mark) * 37, mark));
        }
        sender.join().unwrap();
    }
    assert!(nic.send(&[vec![0; HEADER_LEN], frame(1000, 7)].concat()));
    let mut read = vec![0; 1004];
    far.read_exact(&mut read).unwrap();
    assert_eq!(read, framed(&frame(1000, 7)));
}

#[test]
fn a_far_end_that_does_not_read_loses_no_frame() {
    let (mut far, mut nic, link) = wire();
    let frames = 2000;
    let reader = std::thread::spawn(move || {
        // Until then the socket is long full.
        std::thread::sleep(Duration::from_millis(300));
        let mut read = vec![0; 1404];
        for number in 0..frames {
            far.read_exact(&mut read).unwrap();
            assert_eq!(read, framed(&frame(1400, number as u8)), "{number}");
        }
    });
    for number in 0..frames {
        let bytes = [vec![0; HEADER_LEN], frame(1400, number as u8)].concat();
        wait("room", || nic.send(&bytes).then_some(()));
    }
    reader.join().unwrap();
    assert_eq!(link.statistics().tx_errors, 0);
}

#[test]
fn a_far_end_that_goes_or_lies_leaves_a_card_without_a_wire() {
    for lie in [&[0xff; 4][..], &[0, 1, 0, 0x12][..], &[][..]] {
        let (mut far, mut nic, link) = wire();
        far.write_all(&framed(&frame(100, 1))).unwrap();
        far.write_all(lie).unwrap();
        if lie.is_empty() {
            drop(far);
        }
        assert_eq!(receive(&mut nic), frame(100, 1));
        wait("its end", || {
            (link.statistics().rx_errors > 0).then_some(())
        });
        for _ in 0..5 {
            nic.send(&[0; 100]);
        }
        assert!(!nic.driver().needs_reset());
    }
}

#[test]
fn frames_without_bytes_and_of_the_largest_size_pass() {
    let (mut far, mut nic, _) = wire();
    far.write_all(&framed(&[])).unwrap();
    assert_eq!(receive(&mut nic), [0; 0]);
    far.write_all(&framed(&frame(65_553, 2))).unwrap();
    assert!(receive(&mut nic) == frame(65_553, 2), "the largest frame");
    far.write_all(&framed(&frame(60, 3))).unwrap();
    assert_eq!(receive(&mut nic), frame(60, 3));
}

/// passt with a guest behind it, in a namespace that has a route to outside.
#[test]
fn passt_leads_a_port_of_the_host_to_the_guest() {
    let host = Namespace::new().unwrap();
    let outside = Namespace::new().unwrap();
    host.ip(&format!(
        "link add eth0 type veth peer name far netns {}",
        outside.path()
    ))
    .unwrap();
    host.ip("link set eth0 up").unwrap();
    outside.ip("link set far up").unwrap();
    outside.ip("address add 192.0.2.1/24 dev far").unwrap();
    // Not the gateway's own: by that address passt means the host's loopback.
    outside.ip("address add 192.0.2.3/24 dev far").unwrap();
    host.ip("address add 192.0.2.10/24 dev eth0").unwrap();
    host.ip("route add default via 192.0.2.1").unwrap();
    let forward = "tcp::2222-:22".parse().unwrap();
    let passt = Passt {
        forwards: vec![forward],
        ..Passt::default()
    };
    let socket = host.run(|| passt.start()).unwrap();
    // The guest has the host's address, as passt gives it by DHCP.
    let guest = Guest::new_on(
        stream_backend(socket).unwrap(),
        config(),
        "192.0.2.10/24",
        0,
    );
    guest.stack.ip("route add default via 192.0.2.1").unwrap();

    // From the guest to outside; passt learns the guest's MAC address by it.
    let server = outside.run(|| TcpListener::bind("192.0.2.3:80")).unwrap();
    let client = guest
        .stack
        .run(|| TcpStream::connect_timeout(&"192.0.2.3:80".parse().unwrap(), PATIENCE))
        .unwrap();
    server.accept().unwrap();
    drop(client);

    let server = guest.stack.run(|| TcpListener::bind("0.0.0.0:22")).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let mut client = wait("the forwarded port", || {
        outside
            .run(|| TcpStream::connect_timeout(&"192.0.2.10:2222".parse().unwrap(), PATIENCE))
            .ok()
    });
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    echo.join().unwrap();

    // A port that is taken: passt says so.
    let error = host.run(|| passt.start()).unwrap_err();
    assert!(matches!(error, Error::Passt { .. }), "{error}");
    // One that is not there.
    let missing = Passt {
        program: PathBuf::from("/nonexistent/passt"),
        ..Passt::default()
    };
    assert!(matches!(missing.start(), Err(Error::NoPasst { .. })));
}
