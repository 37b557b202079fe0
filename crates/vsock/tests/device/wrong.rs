//! What no driver, and no program in a guest, should do.

use strata_virtio::test_utils::hostile_suite;
use strata_vsock::{Header, Vsock, op};

use crate::guest::{CID, Guest, carrying, packet, with};
use crate::sequence;

#[test]
fn packets_that_fit_nothing_are_answered_with_a_reset() {
    let mut guest = Guest::new(64);
    let to = packet(1, 2);
    for wrong in [
        with(to, op::RW),
        with(to, op::RESPONSE),
        with(to, op::SHUTDOWN),
        with(to, op::CREDIT_UPDATE),
        with(to, op::CREDIT_REQUEST),
        // Nobody listens there.
        with(to, op::REQUEST),
        with(to, 0),
        with(to, 77),
        Header {
            kind: 2,
            ..with(to, op::REQUEST)
        },
    ] {
        guest.send(wrong, &[]);
        let reset = guest.hear_op(op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (2, 1), "{wrong:?}");
    }
    // Another host's: the answer has its address.
    let elsewhere = Header {
        dst_cid: 9,
        ..with(to, op::REQUEST)
    };
    guest.driver.request(1, &[&elsewhere.to_bytes()], &[]);
    let used = guest.driver.wait_used(0);
    let reset = Header::from_bytes(used.written.first_chunk().unwrap());
    assert_eq!((reset.src_cid, reset.dst_cid, reset.op), (9, CID, op::RST));
    // Nobody's, and a reset, are not answered.
    let forged = Header { src_cid: 4, ..to };
    guest.send(with(forged, op::REQUEST), &[]);
    guest.send(with(to, op::RST), &[]);
    guest.hear_nothing();
}

#[test]
fn operations_at_the_wrong_time_reset_the_connection() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    for wrong in [op::REQUEST, op::RESPONSE, 0, 8, u16::MAX] {
        let (to, mut program) = guest.connect(&listener, 1);
        guest.send(with(to, wrong), &[]);
        guest.hear_op(op::RST);
        assert_eq!(std::io::Read::read(&mut program, &mut [0]).unwrap(), 0);
    }
    let _program = guest.dial("CONNECT 5\n");
    let request = guest.hear_op(op::REQUEST);
    let early = carrying(packet(5, request.src_port), b"early");
    guest.send(early, b"early");
    guest.hear_op(op::RST);
}

#[test]
fn packets_that_are_cut_off_break_the_device() {
    let to = packet(1, 2);
    let whole = carrying(to, b"four").to_bytes();
    for parts in [&[&whole[..43]][..], &[&whole, b"fou"], &[&whole]] {
        let mut guest = Guest::new(1);
        guest.driver.add(1, parts, &[]);
        guest.driver.kick(1);
        guest.driver.wait_needs_reset();
    }
}

#[test]
fn receive_buffers_that_are_too_small_break_the_device() {
    let mut guest = Guest::new(0);
    guest.driver.add(0, &[], &[43]);
    guest.driver.kick(0);
    guest.post(with(packet(1, 2), op::RW));
    guest.driver.wait_needs_reset();
}

#[test]
fn what_is_behind_a_packet_is_not_of_it() {
    let mut guest = Guest::new(8);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    guest.send(carrying(to, b"abc"), b"abc and more");
    guest.send(carrying(to, b"def"), b"def");
    assert_eq!(crate::guest::read(&mut program, 6), b"abcdef");
}

#[test]
fn hostile_rings_break_the_device_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let make = || {
        count.set(count.get() + 1);
        let path = dir.path().join(count.get().to_string());
        Box::new(Vsock::new(CID, path).unwrap()) as Box<dyn strata_virtio::Device>
    };
    for outcome in hostile_suite(make) {
        // The others are looked at when there is something for the guest.
        let looks = matches!(outcome.queue, Some(1) | None);
        assert!(
            outcome.broken || !outcome.must_break || !looks,
            "{outcome:?}"
        );
    }
}

#[test]
fn stored_inputs_find_nothing() {
    for (kind, run) in [
        ("queues", sequence::queues as fn(&[u8])),
        ("packets", sequence::packets),
    ] {
        let corpus = format!("{}/tests/corpus/{kind}", env!("CARGO_MANIFEST_DIR"));
        let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
        assert!(!inputs.is_empty());
        for input in inputs {
            run(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }
}
