//! Who may send how much.

use std::io::Write;

use strata_vsock::{BUFFER, Header, op};

use crate::guest::{Guest, carrying, packet, patient, read, with};

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let to = Header {
        buf_alloc: 100,
        ..packet(1000, 1)
    };
    guest.send(with(to, op::REQUEST), &[]);
    guest.hear_op(op::RESPONSE);
    let mut program = patient(listener.accept().unwrap().0);
    program.write_all(&[b'x'; 250]).unwrap();
    let (_, mut heard) = guest.hear();
    while heard.len() < 100 {
        heard.extend(guest.hear().1);
    }
    assert_eq!(heard.len(), 100);
    guest.hear_op(op::CREDIT_REQUEST);
    guest.hear_nothing();
    let taken = |fwd_cnt, op| Header { fwd_cnt, op, ..to };
    // An answer that gives nothing is not asked again, or both sides would do nothing else while
    // nobody reads; one that gives some is used.
    guest.send(taken(0, op::CREDIT_UPDATE), &[]);
    guest.hear_nothing();
    guest.send(taken(60, op::CREDIT_UPDATE), &[]);
    assert_eq!(guest.hear().1.len(), 60);
    guest.hear_op(op::CREDIT_REQUEST);
    guest.send(taken(160, op::CREDIT_UPDATE), &[]);
    assert_eq!(guest.hear().1.len(), 90);
}

#[test]
fn numbers_that_can_not_be_give_no_room() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let to = Header {
        buf_alloc: 10,
        fwd_cnt: 0x8000_0000,
        ..packet(1000, 1)
    };
    guest.send(with(to, op::REQUEST), &[]);
    guest.hear_op(op::RESPONSE);
    let mut program = patient(listener.accept().unwrap().0);
    program.write_all(b"bytes").unwrap();
    guest.hear_op(op::CREDIT_REQUEST);
    let to = Header {
        buf_alloc: u32::MAX,
        fwd_cnt: 0,
        op: op::CREDIT_UPDATE,
        ..to
    };
    guest.send(to, &[]);
    assert_eq!(guest.hear().1, b"bytes");
}

#[test]
fn a_program_that_does_not_read_holds_its_own_connection_only() {
    let mut guest = Guest::new(64);
    let (slow, quick) = (guest.listen(1), guest.listen(2));
    let (to_slow, mut slow) = guest.connect(&slow, 1);
    let (to_quick, mut quick) = guest.connect(&quick, 2);
    let part: Vec<u8> = (0..16_384_u32).map(|at| (at % 251) as u8).collect();
    // What the kernel holds, and then as much as there is credit for.
    let mut sent = 0_u32;
    let mut taken = 0_u32;
    while sent.wrapping_sub(taken) + 16_384 <= BUFFER {
        guest.send(carrying(to_slow, &part), &part);
        sent += 16_384;
        guest.send(with(to_slow, op::CREDIT_REQUEST), &[]);
        taken = guest.hear_op(op::CREDIT_UPDATE).fwd_cnt;
        assert!(sent < 4 << 20, "somebody takes all that");
    }
    guest.send(carrying(to_quick, b"quick"), b"quick");
    assert_eq!(read(&mut quick, 5), b"quick");
    // It reads at last: everything is there, and the guest hears that there is room.
    for _ in 0..sent / 16_384 {
        assert_eq!(read(&mut slow, part.len()), part);
    }
    let mut update = guest.hear_op(op::CREDIT_UPDATE);
    while update.fwd_cnt <= taken + BUFFER / 2 {
        update = guest.hear_op(op::CREDIT_UPDATE);
    }
    guest.send(with(to_slow, op::CREDIT_REQUEST), &[]);
    assert_eq!(guest.hear_op(op::CREDIT_UPDATE).fwd_cnt, sent);
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let mut guest = Guest::new(64);
    let (first, second) = (guest.listen(1), guest.listen(2));
    let (to, _program) = guest.connect(&first, 1);
    let (other, mut second) = guest.connect(&second, 2);
    let part = [b'x'; 65_536];
    for _ in 0..40 {
        guest
            .driver
            .request(1, &[&carrying(to, &part).to_bytes(), &part], &[]);
    }
    // Updates may come before: the kernel takes some.
    let mut header = guest.hear().0;
    while header.op == op::CREDIT_UPDATE {
        header = guest.hear().0;
    }
    assert_eq!((header.op, header.src_port), (op::RST, 1));
    guest.driver.take_used(0);
    guest.send(carrying(other, b"alive"), b"alive");
    assert_eq!(read(&mut second, 5), b"alive");
}

#[test]
fn a_guest_that_waits_for_room_is_told_without_asking() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    let part = [b'x'; 32_768];
    for round in 0..20_u32 {
        guest.send(carrying(to, &part), &part);
        read(&mut program, part.len());
        if round % 3 == 2 {
            let update = guest.hear_op(op::CREDIT_UPDATE);
            assert!(update.fwd_cnt >= round * 32_768);
        }
    }
}
