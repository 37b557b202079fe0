//! The fuzz targets' bodies, which the stored inputs share.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use strata_virtio::test_utils::{MockDriver, fuzz_queues};
use strata_vsock::{HOST_CID, Header, Vsock, op};

const CID: u64 = 3;
/// Actions of one input; more would only make it slow.
const ACTIONS: usize = 200;

/// Any sequence of accesses to the device's queues and registers.
pub(crate) fn queues(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let device = Vsock::new(CID, dir.path().join("v")).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    fuzz_queues(&mut driver, input);
    driver.start(u64::MAX);
    alive(&mut driver);
}

/// Any sequence of packets, buffers and the host's doings. Eight bytes are one action: what, an
/// operation, two ports, and the rest of a header.
pub(crate) fn packets(input: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let device = Vsock::new(CID, &path).unwrap();
    let handle = device.handle();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    let listener = UnixListener::bind(dir.path().join("v_1")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut programs: Vec<UnixStream> = Vec::new();
    for action in input.chunks_exact(8).take(ACTIONS) {
        let &[what, op, from, to, len, flags, room, taken] = action else {
            return;
        };
        match what % 8 {
            0..=2 => {
                let header = Header {
                    src_cid: CID,
                    dst_cid: HOST_CID,
                    src_port: (from % 4).into(),
                    // The host's ports of what it has asked for begin there.
                    dst_port: u32::from(to % 4) | u32::from(to & 0x40) << 24,
                    len: u32::from(len) * 300,
                    kind: 1 + u16::from(flags >> 7),
                    op: u16::from(op % 9),
                    flags: flags.into(),
                    buf_alloc: u32::from(room) * 77,
                    fwd_cnt: u32::from(taken) * 55,
                };
                let bytes = vec![len; header.len as usize];
                let header = header.to_bytes();
                let parts: &[&[u8]] = if bytes.is_empty() {
                    &[&header]
                } else {
                    &[&header, &bytes]
                };
                add(&mut driver, 1, parts, &[]);
            }
            3 => add(&mut driver, 0, &[], &[44, 1 + u32::from(len) * 20]),
            4 => add(&mut driver, 2, &[], &[4]),
            5 => {
                let program = UnixStream::connect(&path).unwrap();
                program.set_nonblocking(true).unwrap();
                let _ = (&program).write(format!("CONNECT {}\n", from % 4).as_bytes());
                programs.push(program);
            }
            6 => {
                if let Ok((program, _)) = listener.accept() {
                    program.set_nonblocking(true).unwrap();
                    programs.push(program);
                }
                if let Some(mut program) = programs.get(usize::from(from)) {
                    let _ = program.write(&vec![from; usize::from(len) * 100]);
                    let _ = program.read(&mut [0; 4096]);
                }
            }
            _ if flags == 0 => handle.reset_transport().unwrap(),
            _ if programs.is_empty() => {}
            _ => drop(programs.remove(usize::from(from) % programs.len())),
        }
        if driver.needs_reset() {
            driver.start(u64::MAX);
        }
    }
    drop(programs);
    driver.start(u64::MAX);
    alive(&mut driver);
}

/// Makes a chain available if there is room for it.
fn add(driver: &mut MockDriver, queue: u16, readable: &[&[u8]], writable: &[u32]) {
    while driver.take_used(queue).is_some() {}
    if driver.queue(queue).in_flight() < 4 {
        driver.add(queue, readable, writable);
        driver.kick(queue);
    }
}

/// The device still answers, whatever it has to say before: programs may have connected.
fn alive(driver: &mut MockDriver) {
    let lost = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        kind: 1,
        op: op::RW,
        ..Header::default()
    };
    driver.request(1, &[&lost.to_bytes()], &[]);
    for _ in 0..ACTIONS {
        let used = driver.request(0, &[], &[44]);
        let answer = Header::from_bytes(used.written.first_chunk().unwrap());
        if answer.op == op::RST {
            return;
        }
    }
    panic!("it does not answer");
}
