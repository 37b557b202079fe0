//! A driver of one queue pair, with fixed buffers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use strata_virtio::test_utils::{Buffer, MockDriver};
use vm_memory::{Bytes, GuestAddress};

use crate::{Card, HEADER_LEN};

const RX: u16 = 0;
const TX: u16 = 1;
/// Send buffers, each for the largest frame.
const TX_SLOTS: u64 = 64;
const TX_SLOT: u64 = 0x1_1000;
/// Receive buffers.
const RX_SLOTS: u64 = 192;
/// Room for a command and its acknowledgement, behind them.
const COMMAND: u64 = 0x2000;

/// A guest's network card and its driver, which uses the first queue pair.
#[derive(Debug)]
pub struct MockNic {
    driver: MockDriver,
    rx_len: u32,
    rx_at: u64,
    tx_free: Vec<u64>,
    /// The send buffer of each chain, by its head.
    tx_busy: BTreeMap<u16, u64>,
}

impl MockNic {
    /// Starts `card` with those of `features` that it offers, and receive buffers of `rx_len` bytes.
    pub fn new(card: Card, features: u64, rx_len: u32) -> Self {
        let mut nic = Self {
            driver: MockDriver::new(Box::new(card)),
            rx_len,
            rx_at: 0,
            tx_free: Vec::new(),
            tx_busy: BTreeMap::new(),
        };
        nic.restart(features);
        nic
    }

    /// Resets the card and starts it anew. What was in flight is forgotten.
    pub fn restart(&mut self, features: u64) {
        self.driver.start(features);
        // At once: while no chain is in flight, the driver gives the same memory again.
        let rx_bytes = RX_SLOTS * u64::from(self.rx_len);
        let tx_at = self
            .driver
            .allocate(TX_SLOTS * TX_SLOT + rx_bytes + COMMAND);
        self.rx_at = tx_at + TX_SLOTS * TX_SLOT;
        self.tx_free = (0..TX_SLOTS).map(|slot| tx_at + slot * TX_SLOT).collect();
        self.tx_busy.clear();
        for slot in 0..RX_SLOTS {
            self.offer(self.rx_at + slot * u64::from(self.rx_len));
        }
        self.driver.kick(RX);
    }

    /// The driver below.
    pub fn driver(&mut self) -> &mut MockDriver {
        &mut self.driver
    }

    fn add(&mut self, queue: u16, chain: &[Buffer]) -> u16 {
        self.driver.queue(queue).add(chain).unwrap()
    }

    fn offer(&mut self, addr: u64) {
        let buffer = Buffer {
            addr,
            len: self.rx_len,
            writable: true,
        };
        self.add(RX, &[buffer]);
    }

    /// Makes a frame available, a header of [`HEADER_LEN`] bytes before it; false when all buffers
    /// are in use. [`MockNic::kick`] sends it.
    pub fn queue(&mut self, frame: &[u8]) -> bool {
        self.reclaim();
        let Some(addr) = self.tx_free.pop() else {
            return false;
        };
        let memory = self.driver.memory().clone();
        memory.write_slice(frame, GuestAddress(addr)).unwrap();
        let buffer = Buffer {
            addr,
            len: u32::try_from(frame.len()).unwrap(),
            writable: false,
        };
        let head = self.add(TX, &[buffer]);
        self.tx_busy.insert(head, addr);
        true
    }

    /// Makes the send buffer that is free next available again as it is, with `len` bytes; false
    /// when all are in use. For benches, which have filled it before.
    pub fn queue_as_it_is(&mut self, len: u32) -> bool {
        self.reclaim();
        let Some(addr) = self.tx_free.pop() else {
            return false;
        };
        let buffer = Buffer {
            addr,
            len,
            writable: false,
        };
        let head = self.add(TX, &[buffer]);
        self.tx_busy.insert(head, addr);
        true
    }

    /// Fills all send buffers with `frame`.
    pub fn fill(&mut self, frame: &[u8]) {
        let memory = self.driver.memory().clone();
        for addr in &self.tx_free {
            memory.write_slice(frame, GuestAddress(*addr)).unwrap();
        }
    }

    fn reclaim(&mut self) {
        while let Some((head, _, _)) = self.driver.queue(TX).take_used() {
            self.tx_free.push(self.tx_busy.remove(&head).unwrap());
        }
    }

    /// Kicks the send queue, if the device wants to know.
    pub fn kick(&mut self) {
        self.driver.kick(TX);
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let queued = self.queue(frame);
        self.kick();
        queued
    }

    /// Takes a received frame with its header, if there is one, and offers its buffers again.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut frame = self.take()?;
        let count = u16::from_le_bytes([frame[10], frame[11]]);
        for _ in 1..count {
            // All buffers of a frame become used at once (virtio 1.2 §5.1.6.4).
            let rest = self.take().expect("the frame's other buffers");
            frame.extend_from_slice(&rest);
        }
        assert!(frame.len() >= HEADER_LEN);
        self.driver.kick(RX);
        Some(frame)
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let (_, len, buffers) = self.driver.queue(RX).take_used()?;
        let mut bytes = vec![0; len as usize];
        let addr = buffers.first()?.addr;
        self.driver
            .memory()
            .read_slice(&mut bytes, GuestAddress(addr))
            .unwrap();
        self.offer(addr);
        Some(bytes)
    }

    /// Offers the buffers of all received frames again, without a look at them; false when there
    /// were none. For benches.
    pub fn recycle(&mut self) -> bool {
        let mut any = false;
        while let Some((_, _, buffers)) = self.driver.queue(RX).take_used() {
            for buffer in buffers {
                self.offer(buffer.addr);
            }
            any = true;
        }
        if any {
            self.driver.kick(RX);
        }
        any
    }

    /// Sends a command on the control queue `queue`, and returns its acknowledgement: 0 for OK.
    pub fn command(&mut self, queue: u16, class: u8, command: u8, data: &[u8]) -> u8 {
        let memory = self.driver.memory().clone();
        // Behind the receive buffers.
        let at = self.rx_at + RX_SLOTS * u64::from(self.rx_len);
        memory
            .write_slice(&[class, command], GuestAddress(at))
            .unwrap();
        memory.write_slice(data, GuestAddress(at + 2)).unwrap();
        let ack = at + 0x1000;
        memory.write_slice(&[0xaa], GuestAddress(ack)).unwrap();
        let buffers = [(at, 2, false), (at + 2, data.len(), false), (ack, 1, true)];
        let mut chain = Vec::new();
        for (addr, len, writable) in buffers.into_iter().filter(|(_, len, _)| *len > 0) {
            let len = u32::try_from(len).unwrap();
            chain.push(Buffer {
                addr,
                len,
                writable,
            });
        }
        self.add(queue, &chain);
        self.driver.kick(queue);
        self.driver.wait_used(queue);
        let mut answer = [0];
        memory.read_slice(&mut answer, GuestAddress(ack)).unwrap();
        answer[0]
    }
}
