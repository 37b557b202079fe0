//! A guest that speaks in packets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use strata_virtio::test_utils::MockDriver;
use strata_vsock::{HOST_CID, Header, Vsock, VsockHandle, op};
use tempfile::TempDir;

pub(crate) const CID: u64 = 3;
/// What a driver of Linux gives for a packet: a header and a page.
const RX_BUFFER: [u32; 2] = [44, 4096];
const SHORT: Duration = Duration::from_millis(40);

/// What the guest says of its room unless a test says otherwise.
pub(crate) const ROOM: u32 = 1 << 18;

pub(crate) struct Guest {
    pub(crate) driver: MockDriver,
    pub(crate) handle: VsockHandle,
    pub(crate) dir: TempDir,
}

impl Guest {
    /// A guest whose driver runs and has given as many receive buffers.
    pub(crate) fn new(buffers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = Vsock::new(CID, dir.path().join("v")).unwrap();
        let handle = device.handle();
        let mut driver = MockDriver::new(Box::new(device));
        driver.start(u64::MAX);
        let mut guest = Self {
            driver,
            handle,
            dir,
        };
        guest.give(buffers);
        guest
    }

    pub(crate) fn give(&mut self, buffers: usize) {
        for _ in 0..buffers {
            self.driver.add(0, &[], &RX_BUFFER);
        }
        self.driver.kick(0);
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("v")
    }

    /// A program of the host's that listens at a port.
    pub(crate) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("v_{port}"))).unwrap()
    }

    /// A program of the host's that connects, and says this first.
    pub(crate) fn dial(&self, line: &str) -> UnixStream {
        let mut stream = patient(UnixStream::connect(self.path()).unwrap());
        // It may be closed already.
        let _ = stream.write_all(line.as_bytes());
        stream
    }

    pub(crate) fn send(&mut self, header: Header, bytes: &[u8]) {
        let header = header.to_bytes();
        let parts: &[&[u8]] = if bytes.is_empty() {
            &[&header]
        } else {
            &[&header, bytes]
        };
        self.driver.request(1, parts, &[]);
    }

    /// Sends without waiting for the device.
    pub(crate) fn post(&mut self, header: Header) {
        self.driver.add(1, &[&header.to_bytes()], &[]);
        self.driver.kick(1);
    }

    /// The next packet, whose buffer is given again.
    pub(crate) fn hear(&mut self) -> (Header, Vec<u8>) {
        let heard = self.hear_only();
        self.give(1);
        heard
    }

    /// The next packet.
    pub(crate) fn hear_only(&mut self) -> (Header, Vec<u8>) {
        let used = self.driver.wait_used(0);
        let (header, bytes) = used.written.split_first_chunk().unwrap();
        let header = Header::from_bytes(header);
        assert_eq!(
            (header.src_cid, header.dst_cid, header.kind),
            (HOST_CID, CID, 1)
        );
        assert_eq!(used.len, header.len + 44);
        (header, bytes[..header.len as usize].to_vec())
    }

    pub(crate) fn hear_op(&mut self, op: u16) -> Header {
        let (header, _) = self.hear();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// Nothing is said for a while.
    pub(crate) fn hear_nothing(&mut self) {
        std::thread::sleep(SHORT);
        assert!(self.driver.take_used(0).is_none(), "something was said");
    }

    /// Connects to a program that listens: the connection's header, and the program's stream.
    pub(crate) fn connect(&mut self, listener: &UnixListener, port: u32) -> (Header, UnixStream) {
        let to = packet(1000, port);
        self.send(with(to, op::REQUEST), &[]);
        let answer = self.hear_op(op::RESPONSE);
        assert_eq!((answer.src_port, answer.dst_port), (port, 1000));
        (to, patient(listener.accept().unwrap().0))
    }
}

pub(crate) fn patient(stream: UnixStream) -> UnixStream {
    let time = Some(Duration::from_secs(10));
    stream.set_read_timeout(time).unwrap();
    stream
}

pub(crate) fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A packet from the guest's port to the host's.
pub(crate) fn packet(from: u32, to: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: from,
        dst_port: to,
        kind: 1,
        buf_alloc: ROOM,
        ..Header::default()
    }
}

pub(crate) fn with(header: Header, op: u16) -> Header {
    Header { op, ..header }
}

/// A packet that carries bytes.
pub(crate) fn carrying(header: Header, bytes: &[u8]) -> Header {
    Header {
        op: op::RW,
        len: u32::try_from(bytes.len()).unwrap(),
        ..header
    }
}

/// What the guest answers to a packet: the same ports, the other way.
pub(crate) fn answer(to: &Header, op: u16) -> Header {
    with(packet(to.dst_port, to.src_port), op)
}
