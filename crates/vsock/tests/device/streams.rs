//! Connections and their bytes.

use std::io::Write;
use std::os::unix::net::UnixStream;

use strata_virtio::test_utils::MockDriver;
use strata_vsock::{BUFFER, Vsock, op};

use crate::guest::{Guest, answer, carrying, packet, patient, read, with};

#[test]
fn the_guest_reads_its_cid() {
    let dir = tempfile::tempdir().unwrap();
    let device = Vsock::new(0x1234_5678, dir.path().join("v")).unwrap();
    let driver = MockDriver::new(Box::new(device));
    assert_eq!(driver.num_queues(), 3);
    assert_eq!(driver.read_config::<u64>(0), 0x1234_5678);
}

#[test]
fn a_program_of_the_host_reaches_the_guest() {
    let mut guest = Guest::new(64);
    let mut program = guest.dial("CONNECT 1024\nearly");
    let request = guest.hear_op(op::REQUEST);
    assert_eq!((request.dst_port, request.buf_alloc), (1024, BUFFER));
    assert!(request.src_port >= 1 << 30);
    guest.send(answer(&request, op::RESPONSE), &[]);
    let greeting = format!("OK {}\n", request.src_port);
    assert_eq!(read(&mut program, greeting.len()), greeting.as_bytes());
    let (header, bytes) = guest.hear();
    assert_eq!((header.op, &bytes[..]), (op::RW, &b"early"[..]));
    for round in 0..200_u8 {
        let say = carrying(answer(&request, 0), &[round; 3]);
        guest.send(say, &[round; 3]);
        assert_eq!(read(&mut program, 3), [round; 3]);
        program.write_all(&[round; 7]).unwrap();
        assert_eq!(guest.hear().1, [round; 7]);
    }
}

#[test]
fn the_guest_reaches_a_program_that_listens() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(52);
    let (to, mut program) = guest.connect(&listener, 52);
    guest.send(carrying(to, b"question"), b"question");
    assert_eq!(read(&mut program, 8), b"question");
    program.write_all(b"answer").unwrap();
    assert_eq!(guest.hear().1, b"answer");
}

#[test]
fn a_program_that_speaks_first_is_heard() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(9);
    // It has written before the guest could be told that it is there.
    let writer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 ready").unwrap();
        stream
    });
    guest.send(with(packet(7, 9), op::REQUEST), &[]);
    let _stream = writer.join().unwrap();
    guest.hear_op(op::RESPONSE);
    assert_eq!(guest.hear().1, b"220 ready");
}

#[test]
fn many_bytes_keep_their_order() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    let text: Vec<u8> = (0..200_000_u32).map(|at| (at / 5) as u8).collect();
    let sent = text.clone();
    let mut writer = program.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut heard = Vec::new();
    while heard.len() < text.len() {
        heard.extend(guest.hear().1);
    }
    thread.join().unwrap();
    assert_eq!(heard, text);
    for part in text.chunks(20_000) {
        guest.send(carrying(to, part), part);
        assert_eq!(read(&mut program, part.len()), part);
    }
}

#[test]
fn headers_and_bytes_may_lie_in_any_pieces() {
    let mut guest = Guest::new(0);
    let listener = guest.listen(1);
    let to = packet(5, 1);
    let request = with(to, op::REQUEST).to_bytes();
    let pieces: Vec<&[u8]> = request.chunks(7).collect();
    guest.driver.request(1, &pieces, &[]);
    let mut program = patient(listener.accept().unwrap().0);
    for _ in 0..2 {
        guest.driver.add(0, &[], &[1, 40, 7, 1, 60]);
    }
    guest.driver.kick(0);
    assert_eq!(guest.hear_only().0.op, op::RESPONSE);
    program.write_all(b"in pieces").unwrap();
    assert_eq!(guest.hear_only().1, b"in pieces");
    let bytes = carrying(to, b"abcdef").to_bytes();
    let parts: Vec<&[u8]> = bytes.chunks(40).chain(b"abcdef".chunks(1)).collect();
    guest.driver.request(1, &parts, &[]);
    assert_eq!(read(&mut program, 6), b"abcdef");
}

#[test]
fn connections_survive_a_pause() {
    let mut guest = Guest::new(64);
    let listener = guest.listen(1);
    let (to, mut program) = guest.connect(&listener, 1);
    for _ in 0..3 {
        guest.driver.device().pause().unwrap();
        program.write_all(b"while paused").unwrap();
        guest.driver.device().resume().unwrap();
        assert_eq!(guest.hear().1, b"while paused");
        guest.send(carrying(to, b"again"), b"again");
        assert_eq!(read(&mut program, 5), b"again");
    }
}

#[test]
fn lines_that_are_no_greeting_close_the_stream() {
    let mut guest = Guest::new(8);
    for line in [
        "HELLO 1\n",
        "CONNECT\n",
        "CONNECT 99999999999\n",
        "\n",
        "CONNECT 1                              \n",
        "a line that is longer than any greeting may be",
    ] {
        let mut program = guest.dial(line);
        // Closed with bytes unread, or after its last one.
        let end = std::io::Read::read(&mut program, &mut [0]);
        assert!(!matches!(end, Ok(1..)), "{line}");
    }
    guest.hear_nothing();
    // Half a line is waited for.
    let mut program = guest.dial("CONN");
    guest.hear_nothing();
    program.write_all(b"ECT 8\n").unwrap();
    assert_eq!(guest.hear_op(op::REQUEST).dst_port, 8);
}

#[test]
fn a_guest_that_does_not_want_the_connection_closes_it() {
    let mut guest = Guest::new(8);
    let mut program = guest.dial("CONNECT 5\n");
    let request = guest.hear_op(op::REQUEST);
    guest.send(answer(&request, op::RST), &[]);
    assert_eq!(std::io::Read::read(&mut program, &mut [0]).unwrap(), 0);
    guest.hear_nothing();
}

#[test]
fn a_program_that_gives_up_is_forgotten() {
    let mut guest = Guest::new(8);
    let program: UnixStream = guest.dial("CONNECT 5\n");
    let request = guest.hear_op(op::REQUEST);
    drop(program);
    assert_eq!(guest.hear_op(op::RST).dst_port, 5);
    // The guest's late answer is for nobody.
    guest.send(answer(&request, op::RESPONSE), &[]);
    guest.hear_op(op::RST);
}
