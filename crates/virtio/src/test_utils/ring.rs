//! The driver's side of a split virtqueue, with all that a driver can do wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use strata_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

/// Flags of descriptors (virtio 1.2, 2.7.5).
pub mod flags {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// VIRTQ_USED_F_NO_NOTIFY (virtio 1.2, 2.7.8).
const NO_NOTIFY: u16 = 1;

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device may write it; it may read it otherwise.
    pub writable: bool,
}

/// A split virtqueue as its driver sees it.
#[derive(Debug)]
pub struct MockQueue {
    memory: GuestMemory,
    size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest-physical address of the available ring.
    pub avail_ring: u64,
    /// Guest-physical address of the used ring.
    pub used_ring: u64,
    /// Descriptors that no chain has.
    free: Vec<u16>,
    /// The descriptors and buffers of each chain, by head.
    chains: BTreeMap<u16, (Vec<u16>, Vec<Buffer>)>,
    next_avail: u16,
    /// `next_avail` at the last kick, whether the device wanted it or not.
    kicked: u16,
    next_used: u16,
}

impl MockQueue {
    /// Guest memory that a queue of `size` takes.
    pub fn bytes(size: u16) -> u64 {
        let size = u64::from(size);
        (size * 16).next_multiple_of(4096) + (size * 2 + 6).next_multiple_of(4096) + size * 8 + 6
    }

    /// An empty queue of `size` entries at `at`, a multiple of 4096.
    pub fn new(memory: &GuestMemory, at: u64, size: u16) -> Self {
        let avail_ring = at + (u64::from(size) * 16).next_multiple_of(4096);
        let used_ring = avail_ring + (u64::from(size) * 2 + 6).next_multiple_of(4096);
        let zeroes = vec![0; usize::try_from(Self::bytes(size)).unwrap()];
        memory.write_slice(&zeroes, GuestAddress(at)).unwrap();
        Self {
            memory: memory.clone(),
            size,
            desc_table: at,
            avail_ring,
            used_ring,
            free: (0..size).rev().collect(),
            chains: BTreeMap::new(),
            next_avail: 0,
            kicked: 0,
            next_used: 0,
        }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Chains that the device has.
    pub fn in_flight(&self) -> usize {
        self.chains.len()
    }

    /// Writes one descriptor of a table at `table`.
    pub fn write_descriptor_at(
        &self,
        table: u64,
        index: u16,
        (addr, len, flags, next): (u64, u32, u16, u16),
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(table + u64::from(index) * 16);
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Writes one descriptor of the queue's own table: address, length, flags, next.
    pub fn write_descriptor(&self, index: u16, descriptor: (u64, u32, u16, u16)) {
        self.write_descriptor_at(self.desc_table, index, descriptor);
    }

    /// Makes a chain of `buffers` available, and returns its head. `None` if there are not enough
    /// descriptors.
    pub fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return None;
        }
        let indices = self.free.split_off(self.free.len() - buffers.len());
        for (position, buffer) in buffers.iter().enumerate() {
            let next = indices.get(position + 1).copied();
            self.write_descriptor(indices[position], descriptor(buffer, next));
        }
        let head = indices[0];
        self.chains.insert(head, (indices, buffers.to_vec()));
        self.publish(head);
        Some(head)
    }

    /// Makes a chain of `buffers` available by an indirect table at `table`, and returns its head.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> Option<u16> {
        let head = self.free.pop()?;
        for (buffer, index) in buffers.iter().zip(0..) {
            let next = (usize::from(index) + 1 < buffers.len()).then_some(index + 1);
            self.write_descriptor_at(table, index, descriptor(buffer, next));
        }
        let len = u32::try_from(buffers.len() * 16).unwrap();
        self.write_descriptor(head, (table, len, flags::INDIRECT, 0));
        self.chains.insert(head, (vec![head], buffers.to_vec()));
        self.publish(head);
        Some(head)
    }

    /// Puts any head into the available ring.
    pub fn publish(&mut self, head: u16) {
        let entry = self.avail_ring + 4 + u64::from(self.next_avail % self.size) * 2;
        self.memory
            .write_slice(&head.to_le_bytes(), GuestAddress(entry))
            .unwrap();
        self.set_avail_idx(self.next_avail.wrapping_add(1));
    }

    /// Sets the available ring's index to anything.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.next_avail = idx;
        self.memory
            .store(
                idx.to_le(),
                GuestAddress(self.avail_ring + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Sets the available ring's flags: 1 asks for no interrupts.
    pub fn set_avail_flags(&self, flags: u16) {
        self.memory
            .store(
                flags.to_le(),
                GuestAddress(self.avail_ring),
                Ordering::SeqCst,
            )
            .unwrap();
    }

    /// Asks, with EVENT_IDX, for an interrupt when the used index passes `idx`.
    pub fn set_used_event(&self, idx: u16) {
        let at = self.avail_ring + 4 + u64::from(self.size) * 2;
        self.memory
            .store(idx.to_le(), GuestAddress(at), Ordering::SeqCst)
            .unwrap();
        fence(Ordering::SeqCst);
    }

    /// At which available index the device wants its next kick, with EVENT_IDX.
    pub fn avail_event(&self) -> u16 {
        fence(Ordering::SeqCst);
        self.load(self.used_ring + 4 + u64::from(self.size) * 8)
    }

    /// The used ring's flags: 1 asks for no kicks.
    pub fn used_flags(&self) -> u16 {
        fence(Ordering::SeqCst);
        self.load(self.used_ring)
    }

    /// Whether the device wants a kick for what became available since the last call.
    pub(super) fn wants_kick(&mut self, event_idx: bool) -> bool {
        let (old, new) = (self.kicked, self.next_avail);
        self.kicked = new;
        if event_idx {
            // The index at which it wants one is among those that were added.
            new.wrapping_sub(self.avail_event()).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used_flags() & NO_NOTIFY == 0
        }
    }

    /// How many chains the device has given back in all, modulo 2¹⁶.
    pub fn used_idx(&self) -> u16 {
        self.load(self.used_ring + 2)
    }

    /// How many chains were taken back in all, modulo 2¹⁶.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Takes the next chain that the device has given back: head, bytes written, and its buffers.
    pub fn take_used(&mut self) -> Option<(u16, u32, Vec<Buffer>)> {
        if self.used_idx() == self.next_used {
            return None;
        }
        let entry = self.used_ring + 4 + u64::from(self.next_used % self.size) * 8;
        let mut bytes = [0; 8];
        self.memory
            .read_slice(&mut bytes, GuestAddress(entry))
            .unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        let [a, b, c, d, len @ ..] = bytes;
        let head = u16::try_from(u32::from_le_bytes([a, b, c, d])).expect("a head");
        let (indices, buffers) = self
            .chains
            .remove(&head)
            .unwrap_or_else(|| panic!("chain {head} was given back, which the device has not"));
        self.free.extend(indices);
        Some((head, u32::from_le_bytes(len), buffers))
    }

    fn load(&self, at: u64) -> u16 {
        let value: u16 = self
            .memory
            .load(GuestAddress(at), Ordering::Acquire)
            .unwrap();
        u16::from_le(value)
    }
}

fn descriptor(buffer: &Buffer, next: Option<u16>) -> (u64, u32, u16, u16) {
    let mut flags = 0;
    if buffer.writable {
        flags |= flags::WRITE;
    }
    if next.is_some() {
        flags |= flags::NEXT;
    }
    (buffer.addr, buffer.len, flags, next.unwrap_or(0))
}
