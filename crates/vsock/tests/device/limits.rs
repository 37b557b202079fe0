//! What a device does not do without end.

use std::os::unix::net::UnixListener;
use std::path::Path;

use strata_vsock::{Error, MAX_CONNECTIONS, Vsock, op};

use crate::guest::{Guest, packet, with};

#[test]
fn connections_are_counted() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let mut programs = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.send(with(packet(port, 1), op::REQUEST), &[]);
        guest.hear_op(op::RESPONSE);
        programs.push(listener.accept().unwrap());
    }
    guest.send(with(packet(5000, 1), op::REQUEST), &[]);
    guest.hear_op(op::RST);
    let mut refused = guest.dial("CONNECT 1\n");
    assert!(!matches!(
        std::io::Read::read(&mut refused, &mut [0]),
        Ok(1..)
    ));
    guest.send(with(packet(7, 1), op::RST), &[]);
    guest.send(with(packet(5000, 1), op::REQUEST), &[]);
    guest.hear_op(op::RESPONSE);
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to() {
    let mut guest = Guest::new(0);
    let mut posted = 0;
    // None of these has a connection, and each asks for an answer.
    while guest.driver.queue(1).in_flight() < 50 {
        guest.post(with(packet(posted, 1), op::RW));
        posted += 1;
        if guest.driver.queue(1).in_flight() > 10 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        while guest.driver.take_used(1).is_some() {}
        assert!(posted < 2000, "it takes them without end");
    }
    // It takes them at last, and gets every answer.
    for port in 0..posted {
        guest.give(1);
        let (answer, _) = guest.hear_only();
        assert_eq!((answer.op, answer.dst_port), (op::RST, port));
    }
}

#[test]
fn what_can_not_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        assert!(matches!(Vsock::new(cid, &path), Err(Error::Cid(c)) if c == cid));
    }
    for bad in ["", &"p".repeat(97)] {
        assert!(
            matches!(Vsock::new(3, bad), Err(Error::Path { .. })),
            "{bad}"
        );
    }
    let first = Vsock::new(3, &path).unwrap();
    let taken = Vsock::new(3, &path).unwrap_err();
    assert!(matches!(taken, Error::Bind { .. }), "{taken}");
    drop(first);
    // One that was left over is replaced, anything else is not.
    drop(UnixListener::bind(&path).unwrap());
    drop(Vsock::new(3, &path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert!(Vsock::new(3, &path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(Vsock::new(3, Path::new("/nowhere/at/all")).is_err());
}
