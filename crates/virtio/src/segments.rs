//! The buffers of one direction in a chain.

use strata_memory::GuestMemory;
use vm_memory::bitmap::{Bitmap, MS};
use vm_memory::{
    ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
    VolatileSlice,
};

use crate::error::QueueError;
use crate::sys::IoVec;

/// Bytes of guest memory in order, each part of them contiguous in this process: what a device
/// reads of a chain, or what it may write of it.
///
/// Every part was inside of guest memory when the chain was popped. Bytes are consumed from the
/// front, by reading, writing or [`consume`](Self::consume), and from the back by
/// [`pop_back`](Self::pop_back). The storage is kept from one chain to the next.
#[derive(Debug, Default)]
pub struct Segments {
    iovecs: Vec<IoVec>,
    /// Where each of `iovecs` begins in guest memory.
    addrs: Vec<GuestAddress>,
    /// The first part that is not consumed.
    first: usize,
    /// Bytes that are not consumed.
    len: u64,
}

impl Segments {
    /// Bytes left. A chain has less than 4 GiB.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts that are left, for scatter and gather by the host's kernel. None is empty.
    pub fn iovecs(&self) -> &[IoVec] {
        &self.iovecs[self.first..]
    }

    /// The guest-physical address and the bytes of each part that is left.
    pub fn parts(&self) -> impl Iterator<Item = (GuestAddress, usize)> {
        let addrs = self.addrs[self.first..].iter().copied();
        addrs.zip(self.iovecs().iter().map(IoVec::len))
    }

    /// Drops the first `count` bytes, or all if there are less.
    pub fn consume(&mut self, mut count: u64) {
        count = count.min(self.len);
        self.len -= count;
        while count > 0 {
            let Some(part) = self.iovecs.get_mut(self.first) else {
                return;
            };
            let len = part.len() as u64;
            if count < len {
                part.advance(count as usize);
                let addr = &mut self.addrs[self.first];
                *addr = GuestAddress(addr.0 + count);
                return;
            }
            count -= len;
            self.first += 1;
        }
    }

    /// Keeps the first `len` bytes, or all if there are less.
    pub fn truncate(&mut self, len: u64) {
        if len >= self.len {
            return;
        }
        self.len = len;
        let mut left = len;
        let mut index = self.first;
        while left > 0 {
            let part = &mut self.iovecs[index];
            part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= part.len() as u64;
            index += 1;
        }
        self.iovecs.truncate(index);
        self.addrs.truncate(index);
    }

    /// Moves the first `len` bytes, or all if there are less, to `front`, which has nothing else
    /// then: for a header that can only be written when what follows it is known.
    pub fn split_front(&mut self, len: u64, front: &mut Self) {
        front.clear();
        for (mut part, addr) in self.iovecs().iter().copied().zip(&self.addrs[self.first..]) {
            let left = len - front.len;
            if left == 0 {
                break;
            }
            part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            front.len += part.len() as u64;
            front.iovecs.push(part);
            front.addrs.push(*addr);
        }
        self.consume(front.len);
    }

    /// Takes the last byte off and returns its guest-physical address: where a block device's
    /// status goes.
    ///
    /// # Errors
    /// [`QueueError::TooShort`] if there is none.
    pub fn pop_back(&mut self) -> Result<GuestAddress, QueueError> {
        let (addr, len) = self
            .addrs
            .last()
            .zip(self.iovecs.last())
            .filter(|_| self.len > 0)
            .map(|(addr, part)| (*addr, part.len()))
            .ok_or(QueueError::TooShort { missing: 1 })?;
        self.truncate(self.len - 1);
        Ok(GuestAddress(addr.0 + len as u64 - 1))
    }

    /// Copies from the front into `out` and consumes what it copied. Returns the bytes copied:
    /// less than `out` holds if less are left.
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`] if `memory` is not that of the chain's queue.
    pub fn read(&mut self, memory: &GuestMemory, out: &mut [u8]) -> Result<usize, QueueError> {
        self.copy(out.len(), |addr, done, len| {
            let part = in_region(memory, addr, len)?;
            part.copy_to(&mut out[done..done + len]);
            Ok(())
        })
    }

    /// Copies `data` to the front and consumes what it wrote. Returns the bytes copied: less than
    /// `data` holds if less are left.
    ///
    /// # Errors
    /// [`QueueError::OutsideMemory`] if `memory` is not that of the chain's queue.
    pub fn write(&mut self, memory: &GuestMemory, data: &[u8]) -> Result<usize, QueueError> {
        self.copy(data.len(), |addr, done, len| {
            let part = in_region(memory, addr, len)?;
            part.copy_from(&data[done..done + len]);
            Ok(())
        })
    }

    /// Reads and consumes an object, whose numbers are as the guest wrote them: little-endian.
    ///
    /// # Errors
    /// [`QueueError::TooShort`] if not all of it is left.
    pub fn read_obj<T: ByteValued + Default>(
        &mut self,
        memory: &GuestMemory,
    ) -> Result<T, QueueError> {
        let mut object = T::default();
        self.need(size_of::<T>())?;
        self.read(memory, object.as_mut_slice())?;
        Ok(object)
    }

    /// Writes and consumes an object, whose numbers must be little-endian.
    ///
    /// # Errors
    /// [`QueueError::TooShort`] if there is not room for all of it.
    pub fn write_obj<T: ByteValued>(
        &mut self,
        memory: &GuestMemory,
        object: T,
    ) -> Result<(), QueueError> {
        self.need(size_of::<T>())?;
        self.write(memory, object.as_slice()).map(drop)
    }

    /// Notes that the first `len` bytes were written by other means than [`write`](Self::write):
    /// by the host's kernel through [`iovecs`](Self::iovecs). Call it after the write, before the
    /// chain is given back.
    pub fn mark_dirty(&self, memory: &GuestMemory, len: u64) {
        let mut left = len;
        for (addr, part) in self.parts() {
            if left == 0 {
                return;
            }
            let count = left.min(part as u64);
            if let Some((region, offset)) = memory.to_region_addr(addr) {
                region
                    .dirty_bitmap()
                    .mark_dirty(offset.0 as usize, count as usize);
            }
            left -= count;
        }
    }

    /// Forgets everything but the storage.
    pub(crate) fn clear(&mut self) {
        self.iovecs.clear();
        self.addrs.clear();
        self.first = 0;
        self.len = 0;
    }

    /// Parts, consumed or not.
    pub(crate) fn count(&self) -> usize {
        self.iovecs.len()
    }

    /// Appends `len` bytes at `addr`, all of which must be in `memory`.
    pub(crate) fn push(
        &mut self,
        memory: &GuestMemory,
        addr: GuestAddress,
        len: u32,
    ) -> Result<(), QueueError> {
        let outside = || QueueError::outside(addr, len.into());
        let mut at = addr;
        let mut left = u64::from(len);
        while left > 0 {
            let (region, offset) = memory.to_region_addr(at).ok_or_else(outside)?;
            let count = left.min(region.size() - offset.0);
            let base = region
                .get_host_address(MemoryRegionAddress(offset.0))
                .map_err(|_| outside())?;
            self.iovecs.push(IoVec::new(base, count as usize));
            self.addrs.push(at);
            left -= count;
            if left > 0 {
                // A part in the next region, which begins where this one ends.
                at = GuestAddress(at.0.checked_add(count).ok_or_else(outside)?);
            }
        }
        self.len += u64::from(len);
        Ok(())
    }

    fn need(&self, bytes: usize) -> Result<(), QueueError> {
        match (bytes as u64).saturating_sub(self.len) {
            0 => Ok(()),
            missing => Err(QueueError::TooShort { missing }),
        }
    }

    /// Calls `each(addr, done, len)` for the parts of up to `count` bytes and consumes them.
    fn copy(
        &mut self,
        count: usize,
        mut each: impl FnMut(GuestAddress, usize, usize) -> Result<(), QueueError>,
    ) -> Result<usize, QueueError> {
        let mut done = 0;
        for (addr, part) in self.parts() {
            let len = part.min(count - done);
            if len == 0 {
                break;
            }
            each(addr, done, len)?;
            done += len;
        }
        self.consume(done as u64);
        Ok(done)
    }
}

/// The memory of a part, which lies in one region. What vm-memory offers for ranges that may lie in
/// several costs several times as much.
fn in_region(
    memory: &GuestMemory,
    addr: GuestAddress,
    len: usize,
) -> Result<VolatileSlice<'_, MS<'_, GuestMemory>>, QueueError> {
    memory
        .get_slice(addr, len)
        .map_err(|_| QueueError::outside(addr, len as u64))
}
