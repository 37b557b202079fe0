//! A virtqueue as its device uses it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use strata_memory::GuestMemory;
use virtio_queue::{Queue as SplitQueue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{Chain, Table};
use crate::error::{Error, QueueError};
use crate::interrupt::QueueInterrupt;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2, 2.7.6).
const NO_INTERRUPT: u16 = 1;

/// VIRTQ_USED_F_NO_NOTIFY (virtio 1.2, 2.7.8).
const NO_NOTIFY: u16 = 1;

/// Where a queue is and how far its device has come: plain data, not to be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueState {
    /// Entries.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest-physical address of the available ring.
    pub avail_ring: u64,
    /// Guest-physical address of the used ring.
    pub used_ring: u64,
    /// Index of the next chain to take from the available ring.
    pub next_avail: u16,
    /// Index of the next entry of the used ring.
    pub next_used: u16,
}

/// An enabled virtqueue, for one worker.
///
/// No operation takes a lock; [`pop`](Self::pop) and [`push`](Self::push) make no system call.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    ring: SplitQueue,
    memory: GuestMemory,
    /// The driver's index of the available ring, as it was when it was last looked at.
    available: u16,
    /// Whether a descriptor may refer to a table.
    indirect: Result<(), QueueError>,
    /// Entries of the used ring that [`notify`](Self::notify) has not yet seen.
    added: u16,
    kick: Arc<EventFd>,
    interrupt: QueueInterrupt,
}

/// What of the negotiated features concerns a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingFeatures {
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
}

impl Queue {
    /// The queue that a driver has set up, checked.
    pub(crate) fn new(
        index: u16,
        max_size: u16,
        state: &QueueState,
        features: RingFeatures,
        memory: GuestMemory,
        kick: Arc<EventFd>,
        interrupt: QueueInterrupt,
    ) -> Result<Self, Error> {
        let ring = split_queue(max_size, state, features.event_idx, &memory).map_err(|source| {
            Error::Queue {
                queue: index,
                source,
            }
        })?;
        let indirect = if features.indirect {
            Ok(())
        } else {
            Err(QueueError::IndirectNotNegotiated)
        };
        Ok(Self {
            index,
            available: ring.next_avail(),
            ring,
            memory,
            indirect,
            added: 0,
            kick,
            interrupt,
        })
    }

    /// The queue's index in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries: a power of two, as the driver chose it.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The memory that the queue and its buffers are in.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The eventfd that the driver's notification signals.
    ///
    /// The worker's loop watches it already. It is here for those who serve the queue without this
    /// crate: vhost.
    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// The queue's interrupt.
    pub fn interrupt(&self) -> &QueueInterrupt {
        &self.interrupt
    }

    /// Where the queue is, and how far it has been served.
    pub fn state(&self) -> QueueState {
        let state = self.ring.state();
        QueueState {
            size: state.size,
            enabled: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
            next_avail: state.next_avail,
            next_used: state.next_used,
        }
    }

    /// Continues where somebody else (vhost) has stopped serving the queue.
    pub fn set_progress(&mut self, next_avail: u16, next_used: u16) {
        self.ring.set_next_avail(next_avail);
        self.ring.set_next_used(next_used);
        self.available = next_avail;
    }

    /// Takes the next available chain into `chain`, or says that there is none.
    ///
    /// # Errors
    /// [`Error::Queue`] for a chain that no driver may build, or a ring that can not be. The device
    /// is broken then: give the error to the worker's loop.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Error> {
        let Some(head) = self.pop_head()? else {
            return Ok(false);
        };
        let table = Table {
            addr: GuestAddress(self.ring.desc_table()),
            size: self.ring.size().into(),
            indirect: self.indirect,
        };
        chain
            .fill(&self.memory, table, head)
            .map_err(|source| self.error(source))?;
        Ok(true)
    }

    /// Puts the chain that was popped last back, to be popped again: for a packet that needs more
    /// chains than there are.
    pub fn unpop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives the chain with this head back to the driver, with `written` bytes of its writable part
    /// filled from the front.
    ///
    /// # Errors
    /// [`Error::Queue`] if there can be no such chain.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Error> {
        self.push_all(&[(head, written)])
    }

    /// Gives several chains back at once, each a head and the bytes written: the driver sees all of
    /// them or none, as it has to where they are one frame (virtio 1.2, 5.1.6.4).
    ///
    /// # Errors
    /// [`Error::Queue`] if there can be no such chain, or not so many of them.
    pub fn push_all(&mut self, used: &[(u16, u32)]) -> Result<(), Error> {
        let size = self.ring.size();
        if let Some(&(index, _)) = used.iter().find(|(head, _)| *head >= size) {
            let size = size.into();
            return Err(self.error(QueueError::NotInTable { index, size }));
        }
        if used.len() > usize::from(size) {
            return Err(self.used_ring_error());
        }
        self.write_used(used)?;
        // Release: whoever sees the index sees the elements.
        let next = self.ring.next_used();
        self.store(self.ring.used_ring() + 2, next, Ordering::Release)?;
        self.added = self.added.saturating_add(used.len() as u16);
        Ok(())
    }

    /// Writes elements of the used ring that the driver does not look at before its index says so.
    fn write_used(&mut self, used: &[(u16, u32)]) -> Result<(), Error> {
        // The ring was checked when it was enabled (virtio 1.2, 2.7.8: 4 bytes, then elements of 8).
        let elements = GuestAddress(self.ring.used_ring() + 4);
        let mask = self.ring.size() - 1;
        // The region is looked up once for all of them: a received frame may have dozens.
        let len = 8 * usize::from(self.ring.size());
        let slice = self.memory.get_slice(elements, len);
        let mut next = self.ring.next_used();
        for &(head, written) in used {
            let offset = 8 * usize::from(next & mask);
            let element = [u32::from(head).to_le(), written.to_le()];
            match &slice {
                Ok(ring) => ring
                    .get_ref(offset)
                    .map(|place| place.store(element))
                    .map_err(|_| self.used_ring_error())?,
                // It lies in two regions.
                Err(_) => self
                    .memory
                    .write_obj(element, GuestAddress(elements.0 + offset as u64))
                    .map_err(|_| self.used_ring_error())?,
            }
            next = next.wrapping_add(1);
        }
        self.ring.set_next_used(next);
        Ok(())
    }

    /// Interrupts the driver, if it wants to know of what was pushed since the last call (virtio
    /// 1.2, 2.7.7). Costs one eventfd write if so.
    ///
    /// # Errors
    /// [`Error::Queue`], and [`Error::Io`] if the eventfd can not be written.
    pub fn notify(&mut self) -> Result<(), Error> {
        if self.added != 0 && self.wants_interrupt()? {
            self.interrupt.trigger()?;
        }
        Ok(())
    }

    /// Tells the driver not to kick. Only a hint, and without a cost to either side.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub fn disable_kicks(&mut self) -> Result<(), Error> {
        if self.ring.event_idx_enabled() {
            // An event that lies behind is as good (virtio 1.2, 2.7.10).
            return Ok(());
        }
        self.store(self.ring.used_ring(), NO_NOTIFY, Ordering::Relaxed)
    }

    /// Tells the driver to kick again, and says whether chains became available before it could
    /// know: then [`pop`](Self::pop) again.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub fn enable_kicks(&mut self) -> Result<bool, Error> {
        let (ring, next) = (self.ring.used_ring(), self.ring.next_avail());
        if self.ring.event_idx_enabled() {
            // `avail_event`, behind the elements.
            let event = ring + 4 + 8 * u64::from(self.ring.size());
            self.store(event, next, Ordering::Relaxed)?;
        } else {
            self.store(ring, 0, Ordering::Relaxed)?;
        }
        // The driver must be able to see the wish before its index is read: it may be adding.
        fence(Ordering::SeqCst);
        let available = self.load(self.ring.avail_ring() + 2, Ordering::Relaxed)?;
        Ok(available != next)
    }

    /// Kicks the queue as the driver would: its worker is called again, after other events had
    /// their turn. For a worker that stops before the queue is empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn kick(&self) -> Result<(), Error> {
        self.kick.write(1).map_err(|source| Error::Io {
            action: "kick a queue",
            source,
        })
    }

    /// An error of this queue.
    pub fn error(&self, source: QueueError) -> Error {
        Error::Queue {
            queue: self.index,
            source,
        }
    }

    /// The head of the next available chain (virtio 1.2, 2.7.6).
    fn pop_head(&mut self) -> Result<Option<u16>, Error> {
        let (size, next) = (self.ring.size(), self.ring.next_avail());
        // The driver's index is looked at only when what was seen of it is used up: the driver
        // writes to that cache line with each chain.
        if self.available == next {
            self.available = self.load(self.ring.avail_ring() + 2, Ordering::Acquire)?;
        }
        match self.available.wrapping_sub(next) {
            0 => return Ok(None),
            available if available > size => {
                return Err(self.error(QueueError::TooManyAvailable { available, size }));
            }
            _ => {}
        }
        let entry = self.ring.avail_ring() + 4 + 2 * u64::from(next & (size - 1));
        let head = self.load(entry, Ordering::Relaxed)?;
        self.ring.set_next_avail(next.wrapping_add(1));
        Ok(Some(head))
    }

    /// Reads a number of a ring. What vm-memory offers for objects that may lie in two regions
    /// costs several times as much, a dozen times for each request; these numbers are aligned.
    fn load(&self, addr: u64, order: Ordering) -> Result<u16, Error> {
        let place = self.memory.get_slice(GuestAddress(addr), size_of::<u16>());
        let value = place.ok().and_then(|place| place.load(0, order).ok());
        value.map(u16::from_le).ok_or_else(|| self.ring_error(addr))
    }

    /// Writes a number of a ring, as [`load`](Self::load) reads it.
    fn store(&self, addr: u64, value: u16, order: Ordering) -> Result<(), Error> {
        let place = self.memory.get_slice(GuestAddress(addr), size_of::<u16>());
        let stored = place
            .ok()
            .and_then(|place| place.store(value.to_le(), 0, order).ok());
        stored.ok_or_else(|| self.ring_error(addr))
    }

    fn wants_interrupt(&mut self) -> Result<bool, Error> {
        // What was pushed must be there before the driver's wish is read: it may be going to sleep.
        fence(Ordering::SeqCst);
        let ring = self.ring.avail_ring();
        let added = std::mem::take(&mut self.added);
        if self.ring.event_idx_enabled() {
            // Whether `used_event`, behind the entries, is among the entries that were added.
            let used_event = ring + 4 + 2 * u64::from(self.ring.size());
            let used_event = self.load(used_event, Ordering::Relaxed)?;
            let since = self
                .ring
                .next_used()
                .wrapping_sub(used_event)
                .wrapping_sub(1);
            return Ok(since < added);
        }
        Ok(self.load(ring, Ordering::Relaxed)? & NO_INTERRUPT == 0)
    }

    fn used_ring_error(&self) -> Error {
        self.ring_error(self.ring.used_ring())
    }

    /// Not seen with a ring that was checked when it was enabled.
    fn ring_error(&self, addr: u64) -> Error {
        self.error(QueueError::Ring {
            addr,
            why: "it is not in guest memory",
        })
    }
}

/// Checks what the driver says (virtio 1.2, 2.7: alignment and size), so that nothing of the rings
/// is outside of guest memory.
fn split_queue(
    max_size: u16,
    state: &QueueState,
    event_idx: bool,
    memory: &GuestMemory,
) -> Result<SplitQueue, QueueError> {
    let ring = |addr, why| QueueError::Ring { addr, why };
    let mut queue = SplitQueue::try_from(virtio_queue::QueueState {
        max_size,
        next_avail: state.next_avail,
        next_used: state.next_used,
        event_idx_enabled: event_idx,
        size: state.size,
        ready: true,
        desc_table: 0,
        avail_ring: 0,
        used_ring: 0,
    })
    .map_err(|_| {
        ring(
            state.desc_table,
            "its size is not a power of two that is offered",
        )
    })?;
    let size = usize::from(state.size);
    // Bytes: descriptors of 16; flags, index, 2 for each entry and an event; the same with 8.
    for (addr, bytes) in [
        (state.desc_table, size * 16),
        (state.avail_ring, size * 2 + 6),
        (state.used_ring, size * 8 + 6),
    ] {
        if addr == 0 || !GuestMemoryBackend::check_range(memory, GuestAddress(addr), bytes) {
            return Err(ring(addr, "it is not in guest memory"));
        }
    }
    queue
        .try_set_desc_table_address(GuestAddress(state.desc_table))
        .map_err(|_| ring(state.desc_table, "it is not aligned to 16"))?;
    queue
        .try_set_avail_ring_address(GuestAddress(state.avail_ring))
        .map_err(|_| ring(state.avail_ring, "it is not aligned to 2"))?;
    queue
        .try_set_used_ring_address(GuestAddress(state.used_ring))
        .map_err(|_| ring(state.used_ring, "it is not aligned to 4"))?;
    Ok(queue)
}
