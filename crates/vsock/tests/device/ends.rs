//! How connections end.

use std::io::{Read, Write};
use std::net::Shutdown;

use strata_vsock::{Header, op, shutdown};

use crate::guest::{Guest, carrying, packet, patient, read, with};

fn shut(to: Header, flags: u32) -> Header {
    Header {
        op: op::SHUTDOWN,
        flags,
        ..to
    }
}

#[test]
fn each_side_may_end_its_half() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    guest.send(carrying(to, b"all"), b"all");
    guest.send(shut(to, shutdown::SEND), &[]);
    let mut heard = Vec::new();
    program.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"all");
    // The other half goes on.
    program.write_all(b"still").unwrap();
    assert_eq!(guest.hear().1, b"still");
    program.shutdown(Shutdown::Write).unwrap();
    let end = guest.hear_op(op::SHUTDOWN);
    assert_ne!(end.flags & shutdown::SEND, 0);
    guest.send(shut(to, shutdown::BOTH), &[]);
    let mut last = guest.hear().0;
    while last.op == op::SHUTDOWN {
        last = guest.hear().0;
    }
    assert_eq!(last.op, op::RST);
}

#[test]
fn the_host_may_end_its_half_first() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    program.write_all(b"last words").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.hear().1, b"last words");
    assert_eq!(guest.hear_op(op::SHUTDOWN).flags, shutdown::SEND);
    guest.send(carrying(to, b"reply"), b"reply");
    assert_eq!(read(&mut program, 5), b"reply");
    guest.hear_nothing();
}

#[test]
fn a_program_that_goes_has_all_its_bytes_delivered_first() {
    let mut guest = Guest::new(2);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    program.write_all(&[b'x'; 20_000]).unwrap();
    drop(program);
    let (mut heard, mut flags) = (0, 0);
    while flags != shutdown::BOTH {
        let (header, bytes) = guest.hear();
        match header.op {
            op::RW => heard += bytes.len(),
            _ => flags = header.flags,
        }
    }
    assert_eq!(heard, 20_000);
    // What the guest still sends is for nobody, and no fault.
    guest.send(carrying(to, b"unheard"), b"unheard");
    guest.send(with(to, op::RST), &[]);
    guest.hear_nothing();
    // It is gone.
    guest.send(carrying(to, b"x"), b"x");
    guest.hear_op(op::RST);
}

#[test]
fn a_guest_that_goes_has_all_its_bytes_delivered_first() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    // More than the kernel holds.
    let part = [b'y'; 60_000];
    let mut sent = 0;
    for _ in 0..5 {
        guest.send(carrying(to, &part), &part);
        sent += part.len();
    }
    guest.send(shut(to, shutdown::BOTH), &[]);
    assert_eq!(read(&mut program, sent), vec![b'y'; sent]);
    let mut header = guest.hear().0;
    while header.op == op::CREDIT_UPDATE {
        header = guest.hear().0;
    }
    assert_eq!(header.op, op::RST);
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    // Its ports are free again.
    let (_, _program) = guest.connect(&listener, 1);
}

#[test]
fn a_guest_that_does_not_receive_is_sent_nothing() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    guest.send(shut(to, shutdown::RECEIVE), &[]);
    let refused = program.write_all(b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
    guest.send(carrying(to, b"but sends"), b"but sends");
    assert_eq!(read(&mut program, 9), b"but sends");
    guest.hear_nothing();
}

#[test]
fn bytes_after_the_end_reset_the_connection() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, _program) = guest.connect(&listener, 1);
    guest.send(shut(to, shutdown::SEND), &[]);
    guest.send(carrying(to, b"more"), b"more");
    guest.hear_op(op::RST);
}

#[test]
fn a_reset_of_the_device_closes_all_and_the_next_driver_begins_anew() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    for _ in 0..3 {
        let (_, mut program) = guest.connect(&listener, 1);
        guest.driver.reset();
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
        guest.driver.start(u64::MAX);
        guest.give(64);
    }
    let path = guest.path();
    drop(guest);
    assert!(!path.exists(), "the socket stays");
}

#[test]
fn a_transport_that_is_reset_closes_all_and_tells_the_guest() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    guest.handle.reset_transport().unwrap();
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    // There was no buffer for the event yet.
    for _ in 0..2 {
        guest.driver.add(2, &[], &[4]);
        guest.driver.kick(2);
    }
    let event = guest.driver.wait_used(2);
    assert_eq!((event.len, &event.written[..]), (4, &[0; 4][..]));
    guest.hear_nothing();
    assert!(guest.driver.take_used(2).is_none(), "it is told once");
    guest.send(carrying(to, b"x"), b"x");
    guest.hear_op(op::RST);
    let (_, _program) = guest.connect(&listener, 1);
    guest.handle.reset_transport().unwrap();
    assert_eq!(guest.driver.wait_used(2).len, 4);
}

#[test]
fn a_program_that_closes_with_bytes_unread_ends_both_halves() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let to = packet(1000, 1);
    guest.send(with(to, op::REQUEST), &[]);
    guest.hear_op(op::RESPONSE);
    let program = patient(listener.accept().unwrap().0);
    guest.send(carrying(to, b"unread"), b"unread");
    drop(program);
    let mut flags = 0;
    while flags != shutdown::BOTH {
        flags = guest.hear_op(op::SHUTDOWN).flags;
    }
}

#[test]
fn a_transport_that_is_reset_answers_what_was_asked_before() {
    let mut guest = Guest::new(0);
    // Nobody listens, and there is no room for the answer.
    guest.send(with(packet(5, 1), op::REQUEST), &[]);
    guest.handle.reset_transport().unwrap();
    guest.driver.request(2, &[], &[4]);
    guest.give(1);
    assert_eq!(guest.hear_only().0.op, op::RST);
}
