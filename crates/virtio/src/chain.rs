//! A chain of descriptors, checked as a whole before a device sees any of it.

use strata_memory::GuestMemory;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileMemory,
};

use crate::error::QueueError;
use crate::segments::Segments;

/// One request of a driver: what the device reads, and then what it may write.
///
/// [`Queue::pop`](crate::Queue::pop) fills it. It is reused from request to request, so that
/// popping allocates nothing once it has grown; a device with many requests in flight keeps one for
/// each.
#[derive(Debug, Default)]
pub struct Chain {
    pub(crate) head: u16,
    /// What the driver has written for the device.
    pub readable: Segments,
    /// Where the device may answer.
    pub writable: Segments,
}

/// Where descriptors are looked up, and how many of them there are.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) addr: GuestAddress,
    pub(crate) size: u32,
    /// Whether a descriptor may refer to another table.
    pub(crate) indirect: Result<(), QueueError>,
}

const DESCRIPTOR_SIZE: u32 = size_of::<Descriptor>() as u32;

impl Chain {
    /// Buffers that a chain may have: as many as readv(2) takes. It bounds what a guest makes us
    /// allocate; indirect tables could otherwise name 2^16.
    pub const MAX_BUFFERS: usize = 1024;

    /// An empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// What names the request to [`Queue::push`](crate::Queue::push).
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Follows the descriptors from `head`, each of which is read once: what the driver changes
    /// afterwards has no effect.
    pub(crate) fn fill(
        &mut self,
        memory: &GuestMemory,
        mut table: Table,
        head: u16,
    ) -> Result<(), QueueError> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        let mut index = head;
        // Every descriptor of the table once, at most.
        let mut left = table.size;
        loop {
            let descriptor = table.read(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                table = table.enter(&descriptor)?;
                left = table.size;
                index = 0;
                continue;
            }
            self.add(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                return Err(QueueError::Loop { head });
            }
            index = descriptor.next();
        }
    }

    fn add(&mut self, memory: &GuestMemory, descriptor: &Descriptor) -> Result<(), QueueError> {
        let (addr, len) = (descriptor.addr(), descriptor.len());
        if len == 0 {
            return Err(QueueError::Empty { addr: addr.0 });
        }
        let head = self.head;
        if self.readable.count() + self.writable.count() >= Self::MAX_BUFFERS {
            return Err(QueueError::TooManyBuffers { head });
        }
        let total = self.readable.len() + self.writable.len() + u64::from(len);
        if total > u32::MAX.into() {
            return Err(QueueError::TooLong { head });
        }
        if descriptor.is_write_only() {
            self.writable.push(memory, addr, len)
        } else if self.writable.is_empty() {
            self.readable.push(memory, addr, len)
        } else {
            Err(QueueError::ReadableAfterWritable)
        }
    }
}

impl Table {
    fn read(&self, memory: &GuestMemory, index: u16) -> Result<Descriptor, QueueError> {
        if u32::from(index) >= self.size {
            let size = self.size;
            return Err(QueueError::NotInTable { index, size });
        }
        let addr = self
            .addr
            .checked_add(u64::from(index) * u64::from(DESCRIPTOR_SIZE))
            .ok_or(QueueError::outside(self.addr, DESCRIPTOR_SIZE.into()))?;
        // What vm-memory offers for objects that may lie in two regions costs several times as much
        // as this, for each buffer of each request; such a table still takes that way.
        let whole = memory.to_region_addr(addr).and_then(|(region, offset)| {
            let bytes = region.get_slice(offset, DESCRIPTOR_SIZE as usize).ok()?;
            Some(bytes.get_ref::<Descriptor>(0).ok()?.load())
        });
        match whole {
            Some(descriptor) => Ok(descriptor),
            None => memory
                .read_obj(addr)
                .map_err(|_| QueueError::outside(addr, DESCRIPTOR_SIZE.into())),
        }
    }

    /// The table that `descriptor` refers to (virtio 1.2, 2.7.5.3).
    fn enter(&self, descriptor: &Descriptor) -> Result<Self, QueueError> {
        self.indirect?;
        if descriptor.has_next() {
            return Err(QueueError::IndirectWithNext);
        }
        let len = descriptor.len();
        if len == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE) {
            return Err(QueueError::IndirectLength { len });
        }
        Ok(Self {
            addr: descriptor.addr(),
            size: len / DESCRIPTOR_SIZE,
            indirect: Err(QueueError::NestedIndirect),
        })
    }
}
