//! An io_uring whose requests read and write guest memory where it lies.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use strata_memory::GuestMemory;
use strata_virtio::{Chain, IoVec, Segments};

use crate::disk::{Place, Run};
use crate::error::Error;

/// Names a request of a ring.
pub(crate) type SlotId = u16;

/// Completions with this bit are of watched files; the rest is the token.
const WATCH: u64 = 1 << 63;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file into the chain's writable part.
    Read,
    /// From the chain's readable part to the file.
    Write,
}

/// What the host failed to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) file: u16,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) error: io::Error,
}

/// What the ring has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request has ended.
    Done(Completion),
    /// A file that is watched with this token became readable, or was when it began to be watched.
    /// It may be told more than once, and late: whoever hears of it looks.
    Readable(u32),
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) slot: SlotId,
    /// The first failure, if there was one.
    pub(crate) result: Result<(), Failure>,
}

/// One operation of the kernel.
#[derive(Default)]
struct Part {
    file: u16,
    offset: u64,
    /// Bytes that are still to be transferred; 0 for a flush.
    left: u64,
    read: bool,
    /// The buffers, unless they are the whole of the chain's. Kept from use to use.
    vectors: Vec<libc::iovec>,
}

/// A request: its chain, and the operations that make it up.
#[derive(Default)]
struct Slot {
    chain: Chain,
    parts: Vec<Part>,
    /// Operations that the kernel has, or will have with the next submission.
    pending: u16,
    failure: Option<Failure>,
}

/// A ring with a fixed number of requests.
///
/// While an operation is under way its slot is not touched: that, and the memory that the ring
/// keeps, is what makes it sound to give the kernel addresses.
pub(crate) struct Ring {
    uring: IoUring,
    /// Made when they are first needed, from the lowest on, in place: an idle queue touches no
    /// memory for them.
    slots: Vec<Slot>,
    /// Operations in all slots.
    pending: usize,
    /// Entries that wait for the next submission.
    queued: usize,
    /// Some file is open with O_DIRECT.
    direct: bool,
    /// Keeps mapped what operations refer to.
    memory: Option<GuestMemory>,
    /// Watched files by their tokens.
    watched: Vec<(u32, RawFd)>,
    /// Why a file can no longer be watched.
    blind: Option<io::Error>,
}

// SAFETY: The pointers in the slots' vectors are into guest memory, which is mapped in the process
// and kept so by `memory`; nothing else in a ring belongs to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring for requests whose buffers are in `memory`, on `files`, which must be open for as
    /// long as they are used. It is for the thread that makes it.
    pub(crate) fn new(
        memory: &GuestMemory,
        files: &[RawFd],
        direct: bool,
        slots: u16,
    ) -> Result<Self, Error> {
        let failed = |action| move |source| Error::Ring { action, source };
        let entries = u32::from(slots.max(1)).next_power_of_two();
        // One thread submits, and it looks at completions when it is in the kernel anyway: no
        // interruption of the thread for each. Kernels that do not know these do without.
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .build(entries)
            .or_else(|_| IoUring::builder().build(entries))
            .map_err(failed("set up"))?;
        uring
            .submitter()
            .register_files(files)
            .map_err(failed("register a disk's files with"))?;
        Ok(Self {
            uring,
            slots: Vec::with_capacity(slots.into()),
            pending: 0,
            queued: 0,
            direct,
            memory: Some(memory.clone()),
            watched: Vec::new(),
            blind: None,
        })
    }

    /// Says from now on whenever `file` becomes readable. The ring keeps it open until it ends.
    pub(crate) fn watch(&mut self, file: &impl AsRawFd, token: u32) {
        self.watched.push((token, file.as_raw_fd()));
        self.poll(token);
    }

    fn poll(&mut self, token: u32) {
        let found = self.watched.iter().find(|(other, _)| *other == token);
        if let Some(&(_, file)) = found {
            let entry = opcode::PollAdd::new(types::Fd(file), libc::POLLIN as u32).multi(true);
            self.enqueue(&entry.build().user_data(WATCH | u64::from(token)));
        }
    }

    /// Operations that wait for the next submission while the kernel has nothing else to do; 0 if
    /// it has.
    pub(crate) fn held_back(&self) -> usize {
        if self.queued == self.pending {
            self.queued
        } else {
            0
        }
    }

    /// Operations that have not ended.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// The chain of a request, if the kernel does not have it.
    pub(crate) fn chain(&mut self, slot: SlotId) -> Option<&mut Chain> {
        let index = usize::from(slot);
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        (slot.pending == 0).then_some(&mut slot.chain)
    }

    /// Whether the buffers lie where O_DIRECT takes them: every address and length is a multiple.
    pub(crate) fn is_aligned(&self, id: SlotId, direction: Direction, alignment: u64) -> bool {
        // Without O_DIRECT buffers may lie anywhere.
        if !self.direct {
            return true;
        }
        let chain = &self.slots[usize::from(id)].chain;
        let vectors = data(chain, direction).iovecs().iter();
        let bits = vectors.fold(0, |bits, v| bits | v.base().addr() | v.len());
        (bits as u64).is_multiple_of(alignment)
    }

    /// Queues the operations of a read or write whose bytes lie in `runs`, in the order of the
    /// chain's. Returns whether there are any: runs of zeroes are read at once.
    pub(crate) fn transfer(&mut self, id: SlotId, direction: Direction, runs: &[Run]) -> bool {
        let slot = &mut self.slots[usize::from(id)];
        if slot.pending > 0 {
            return true;
        }
        let read = direction == Direction::Read;
        let mut parts = 0;
        let mut skip = 0;
        for run in runs {
            let whole = runs.len() == 1;
            match run.place {
                Place::Zeroes => zero(data(&slot.chain, direction), skip, run.len),
                Place::File { file, offset } => {
                    let part = slot.part(parts);
                    part.file = file;
                    part.offset = offset;
                    part.left = run.len;
                    part.read = read;
                    part.vectors.clear();
                    let mut vectors = std::mem::take(&mut part.vectors);
                    if !whole {
                        cut(data(&slot.chain, direction), skip, run.len, &mut vectors);
                    }
                    slot.parts[parts].vectors = vectors;
                    parts += 1;
                }
            }
            skip += run.len;
        }
        for part in 0..parts {
            self.push(id, part);
        }
        parts > 0
    }

    /// Queues a flush of a file's data.
    pub(crate) fn flush(&mut self, id: SlotId, file: u16) {
        let part = self.slots[usize::from(id)].part(0);
        part.file = file;
        part.offset = 0;
        part.left = 0;
        self.push(id, 0);
    }

    /// Gives the kernel what is queued, with one system call. False if it takes it only after
    /// completions have been looked at.
    pub(crate) fn submit(&mut self) -> io::Result<bool> {
        while self.queued > 0 {
            match self.uring.submit() {
                Ok(count) => self.queued = self.queued.saturating_sub(count.max(1)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) if self.pending > self.queued => {
                        return Ok(false);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// Gives the kernel what is queued and waits until there is an event, with one system call.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        if let Some(error) = self.blind.take() {
            return Err(error);
        }
        match self.uring.submit_and_wait(1) {
            Ok(count) => self.queued = self.queued.saturating_sub(count),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Completions must be taken first.
                Some(libc::EAGAIN | libc::EBUSY) if self.pending > self.queued => {}
                _ => return Err(error),
            },
        }
        Ok(())
    }

    /// The next event, if there is one. A transfer that the kernel did in part is queued for the
    /// rest of it.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            let entry = self.uring.completion().next()?;
            if entry.user_data() & WATCH != 0 {
                let token = entry.user_data() as u32;
                if entry.result() < 0 {
                    self.blind = Some(io::Error::from_raw_os_error(-entry.result()));
                } else if !cqueue::more(entry.flags()) {
                    self.poll(token);
                }
                return Some(Event::Readable(token));
            }
            let (id, part) = (
                (entry.user_data() >> 16) as SlotId,
                entry.user_data() as u16,
            );
            self.pending -= 1;
            let slot = self.slots.get_mut(usize::from(id))?;
            slot.pending -= 1;
            if slot.advance(part.into(), entry.result()) {
                self.push(id, part.into());
            } else if slot.pending == 0 {
                let result = slot.failure.take().map_or(Ok(()), Err);
                return Some(Event::Done(Completion { slot: id, result }));
            }
        }
    }

    fn push(&mut self, id: SlotId, index: usize) {
        let slot = &mut self.slots[usize::from(id)];
        let tag = u64::from(id) << 16 | index as u64;
        let entry = slot.entry(index).user_data(tag);
        slot.pending += 1;
        self.pending += 1;
        self.enqueue(&entry);
    }

    /// `entry` points to nothing, or is of a slot that is pending.
    fn enqueue(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: What the entry points to stays where it is until the completion: the
            // vectors are on the heap in a slot that is pending and so not changed, `Drop` waits,
            // and the bytes that they name are in `memory`, from which the chain was popped.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                self.queued += 1;
                return;
            }
            // Full: more operations than requests, since some are scattered.
            match self.uring.submit() {
                Ok(count) => self.queued = self.queued.saturating_sub(count),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.pending > 0 {
            if self.wait().is_err() {
                // The kernel may still write: the memory and the vectors must never go away.
                std::mem::forget(self.memory.take());
                std::mem::forget(std::mem::take(&mut self.slots));
                log::error!("a disk's requests can not be waited for; their memory is kept");
                return;
            }
            while self.event().is_some() {}
        }
        // The kernel closes a ring in its own time, and with it the files; this closes them now.
        let _ = self.uring.submitter().unregister_files();
    }
}

/// The side of a chain that a transfer is about.
fn data(chain: &Chain, direction: Direction) -> &Segments {
    match direction {
        Direction::Read => &chain.writable,
        Direction::Write => &chain.readable,
    }
}

/// Visits `len` bytes after the first `skip` as contiguous parts.
fn each_part(segments: &Segments, skip: u64, len: u64, mut each: impl FnMut(libc::iovec)) {
    let (mut skip, mut left) = (skip, len);
    for vector in segments.iovecs() {
        let size = vector.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let count = left.min(size - skip);
        if count == 0 {
            return;
        }
        each(libc::iovec {
            iov_base: vector.base().wrapping_add(skip as usize).cast(),
            iov_len: count as usize,
        });
        left -= count;
        skip = 0;
    }
}

fn cut(segments: &Segments, skip: u64, len: u64, vectors: &mut Vec<libc::iovec>) {
    each_part(segments, skip, len, |part| vectors.push(part));
}

fn zero(segments: &Segments, skip: u64, len: u64) {
    each_part(segments, skip, len, zero_vector);
}

fn zero_vector(vector: libc::iovec) {
    // SAFETY: The vector is a part of a chain of the ring's memory, so it is mapped and writable;
    // what the guest does with the bytes meanwhile is no concern of this process.
    unsafe { std::ptr::write_bytes(vector.iov_base.cast::<u8>(), 0, vector.iov_len) }
}

impl Slot {
    /// The operation with this index, made if it was never used.
    fn part(&mut self, index: usize) -> &mut Part {
        if index >= self.parts.len() {
            self.parts.resize_with(index + 1, Part::default);
        }
        &mut self.parts[index]
    }

    fn entry(&self, index: usize) -> squeue::Entry {
        let part = &self.parts[index];
        let fd = types::Fixed(part.file.into());
        if part.left == 0 {
            let datasync = types::FsyncFlags::DATASYNC;
            return opcode::Fsync::new(fd).flags(datasync).build();
        }
        let direction = if part.read {
            Direction::Read
        } else {
            Direction::Write
        };
        let vectors = match &part.vectors[..] {
            [] => IoVec::as_raw(data(&self.chain, direction).iovecs()),
            vectors => vectors,
        };
        let count = vectors.len() as u32;
        match (vectors, part.read) {
            // One buffer needs no vector, which the kernel would have to read first.
            ([one], true) => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len as u32)
                .offset(part.offset)
                .build(),
            ([one], false) => opcode::Write::new(fd, one.iov_base.cast(), one.iov_len as u32)
                .offset(part.offset)
                .build(),
            (_, true) => opcode::Readv::new(fd, vectors.as_ptr(), count)
                .offset(part.offset)
                .build(),
            (_, false) => opcode::Writev::new(fd, vectors.as_ptr(), count)
                .offset(part.offset)
                .build(),
        }
    }

    /// Takes the result of an operation in. True if the rest of it is to be done.
    fn advance(&mut self, index: usize, result: i32) -> bool {
        let Some(part) = self.parts.get_mut(index) else {
            return false;
        };
        let error = match u64::try_from(result) {
            Err(_) => io::Error::from_raw_os_error(-result),
            Ok(count) if count >= part.left => return false,
            Ok(count) => {
                if part.vectors.is_empty() {
                    let direction = if part.read {
                        Direction::Read
                    } else {
                        Direction::Write
                    };
                    cut(
                        data(&self.chain, direction),
                        0,
                        part.left,
                        &mut part.vectors,
                    );
                }
                drop_front(&mut part.vectors, count as usize);
                part.offset += count;
                part.left -= count;
                if count > 0 {
                    return true;
                }
                if part.read {
                    // Past the end of a file lie zeroes.
                    part.vectors.iter().copied().for_each(zero_vector);
                    return false;
                }
                io::ErrorKind::WriteZero.into()
            }
        };
        if self.failure.is_none() {
            self.failure = Some(Failure {
                file: part.file,
                offset: part.offset,
                len: part.left,
                error,
            });
        }
        false
    }
}

/// Drops the first `count` bytes.
fn drop_front(vectors: &mut Vec<libc::iovec>, count: usize) {
    let mut left = count;
    let mut whole = 0;
    for vector in vectors.iter_mut() {
        if left < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(left);
            vector.iov_len -= left;
            break;
        }
        left -= vector.iov_len;
        whole += 1;
    }
    vectors.drain(..whole);
}
