//! Bytes between a guest's rings and a socket, through the worker's thread.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strata_virtio::test_utils::{Buffer, MockDriver};
use strata_vsock::{BUFFER, HOST_CID, Header, Vsock, op};
use vm_memory::{Bytes, GuestAddress};

const CID: u64 = 3;
/// What Linux sends at once at most, and what it gives for a packet to receive.
const SENT: u32 = 64 << 10;
const RECEIVED: u32 = 4096;
const RX_BUFFERS: u64 = 128;

/// A guest with one connection to a program of the host's.
struct Guest {
    driver: MockDriver,
    /// Where the header for sending is, and the bytes behind it.
    tx: u64,
    /// Bytes that the guest has taken out of its buffers.
    taken: u32,
    /// Bytes that it has sent, and that the device says it is done with.
    sent: u32,
    delivered: u32,
    _dir: tempfile::TempDir,
}

impl Guest {
    fn connected() -> Option<(Self, UnixStream)> {
        let dir = tempfile::tempdir().ok()?;
        let listener = UnixListener::bind(dir.path().join("v_1")).ok()?;
        let device = Vsock::new(CID, dir.path().join("v")).ok()?;
        let mut driver = MockDriver::new(Box::new(device));
        driver.start(u64::MAX);
        let rx = driver.allocate(RX_BUFFERS * u64::from(44 + RECEIVED));
        let tx = rx + RX_BUFFERS * u64::from(44 + RECEIVED);
        let mut guest = Self {
            driver,
            tx,
            taken: 0,
            sent: 0,
            delivered: 0,
            _dir: dir,
        };
        for slot in 0..RX_BUFFERS {
            guest.give(rx + slot * u64::from(44 + RECEIVED));
        }
        guest.driver.kick(0);
        guest.send(op::REQUEST, 0);
        guest.hear();
        Some((guest, listener.accept().ok()?.0))
    }

    fn give(&mut self, addr: u64) {
        let len = 44 + RECEIVED;
        let writable = true;
        let _ = self.driver.queue(0).add(&[Buffer {
            addr,
            len,
            writable,
        }]);
    }

    fn send(&mut self, op: u16, len: u32) {
        let header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: 1,
            dst_port: 1,
            len,
            kind: 1,
            op,
            buf_alloc: 1 << 30,
            fwd_cnt: self.taken,
            ..Header::default()
        };
        let at = GuestAddress(self.tx);
        let _ = self.driver.memory().write_slice(&header.to_bytes(), at);
        let part = |addr, len| Buffer {
            addr,
            len,
            writable: false,
        };
        let parts = [part(self.tx, 44), part(self.tx + 64, len)];
        let count = if len == 0 { 1 } else { 2 };
        let _ = self.driver.queue(1).add(&parts[..count]);
        self.driver.kick(1);
        self.sent = self.sent.wrapping_add(len);
        self.wait(1);
    }

    /// Waits until the device has room for `len` bytes.
    fn wait_room(&mut self, len: u32) {
        while self.sent.wrapping_sub(self.delivered) + len > BUFFER {
            self.hear();
        }
    }

    /// Waits for a packet, gives its buffer again, and returns its bytes.
    fn hear(&mut self) -> u32 {
        let (len, addr) = self.wait(0);
        let mut header = [0; Header::SIZE];
        let _ = self
            .driver
            .memory()
            .read_slice(&mut header, GuestAddress(addr));
        let header = Header::from_bytes(&header);
        assert_ne!(header.op, op::RST, "the connection is gone");
        self.delivered = header.fwd_cnt;
        self.give(addr);
        self.driver.kick(0);
        let bytes = len - 44;
        let before = self.taken;
        self.taken = self.taken.wrapping_add(bytes);
        if (before ^ self.taken) & (1 << 28) != 0 {
            self.send(op::CREDIT_UPDATE, 0);
        }
        bytes
    }

    fn wait(&mut self, queue: u16) -> (u32, u64) {
        loop {
            let ring = self.driver.queue(queue);
            ring.set_used_event(ring.next_used());
            if let Some((_, len, buffers)) = ring.take_used() {
                return (len, buffers[0].addr);
            }
            self.driver
                .wait_interrupt(queue + 1, std::time::Duration::from_secs(10));
        }
    }
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("streams");
    let Some((mut guest, mut program)) = Guest::connected() else {
        return;
    };
    let mut writer = match program.try_clone() {
        Ok(writer) => writer,
        Err(_) => return,
    };
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 18];
        while program.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    group.throughput(Throughput::Bytes(SENT.into()));
    group.bench_function("64 KiB from the guest to a program", |b| {
        b.iter(|| {
            guest.wait_room(SENT);
            guest.send(op::RW, SENT);
        });
    });
    // What the sockets alone take.
    if let Ok((mut near, mut far)) = UnixStream::pair() {
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 18];
            while far.read(&mut bytes).is_ok_and(|count| count > 0) {}
        });
        let bytes = vec![7; SENT as usize];
        group.bench_function("64 KiB from a program to a program", |b| {
            b.iter(|| near.write_all(&bytes));
        });
        drop(near);
        let _ = reader.join();
    }
    let feeder = std::thread::spawn(move || {
        let bytes = vec![7; 1 << 18];
        while writer.write_all(&bytes).is_ok() {}
    });
    group.throughput(Throughput::Bytes(RECEIVED.into()));
    group.bench_function("4 KiB from a program to the guest", |b| {
        b.iter(|| while guest.hear() == 0 {});
    });
    group.finish();
    drop(guest);
    let _ = (reader.join(), feeder.join());
}

criterion_group!(benches, streams);
criterion_main!(benches);
