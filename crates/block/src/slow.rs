//! The slow path: what needs clusters, a copy or a long system call is done by a few threads of
//! the disk, so that the thread of a queue never waits.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use strata_memory::GuestMemory;
use strata_qcow2::{AlignedBuf, Error, Node};
use strata_virtio::{Chain, Segments};
use vm_memory::{Address, Bytes};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::disk::Disk;
use crate::sys::SlotId;

/// Threads of one disk. They are made when they are first needed.
const THREADS: usize = 4;

/// The largest buffer that a thread takes. A multiple of every alignment, so that all steps of a
/// request but the last are aligned if the first is.
const CHUNK: u64 = 1 << 20;

/// Enough for every disk's O_DIRECT.
const ALIGNMENT: usize = 4096;

/// A range of a discard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) unmap: bool,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Work {
    Read { offset: u64 },
    Write { offset: u64 },
    Flush,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

/// A request on its way through the slow path, and back.
pub(crate) struct Job {
    pub(crate) slot: SlotId,
    pub(crate) chain: Chain,
    pub(crate) work: Work,
}

/// A job that has ended.
pub(crate) struct Done {
    pub(crate) slot: SlotId,
    pub(crate) chain: Chain,
    pub(crate) result: Result<(), Error>,
}

/// The only way in which this crate takes a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a queue's jobs come back to.
pub(crate) struct Mailbox {
    memory: GuestMemory,
    done: Mutex<Vec<Done>>,
    came: Condvar,
    /// The owner wants failed requests to be tried again.
    retry: AtomicBool,
    /// Readable while something is there.
    event: EventFd,
}

impl Mailbox {
    pub(crate) fn new(memory: GuestMemory) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            memory,
            done: Mutex::default(),
            came: Condvar::new(),
            retry: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK)?,
        }))
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Moves what has come into `into`.
    pub(crate) fn take(&self, into: &mut Vec<Done>) {
        // Without a signal there is nothing, or it is about to be signalled: no lock for that.
        if self.event.read().is_ok() {
            into.append(&mut lock(&self.done));
        }
    }

    /// Asks the worker to try its failed requests again.
    pub(crate) fn ask_retry(&self) {
        self.retry.store(true, Ordering::Release);
        self.signal();
    }

    /// Whether that was asked since the last call.
    pub(crate) fn take_retry(&self) -> bool {
        self.retry.swap(false, Ordering::AcqRel)
    }

    /// Waits until something has come.
    pub(crate) fn wait(&self) {
        let empty = self
            .came
            .wait_while(lock(&self.done), |done| done.is_empty());
        drop(empty.unwrap_or_else(PoisonError::into_inner));
    }

    fn put(&self, done: Done) {
        lock(&self.done).push(done);
        self.came.notify_one();
        self.signal();
    }

    /// Has the worker look at what it waits for.
    pub(crate) fn signal(&self) {
        // It fails only when the counter is full, and then the event is set.
        let _ = self.event.write(1);
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Job, Arc<Mailbox>)>,
    idle: usize,
    closed: bool,
}

struct Shared {
    disk: Arc<Disk>,
    state: Mutex<State>,
    came: Condvar,
}

/// The threads of one disk's slow path.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        let shared = Shared {
            disk,
            state: Mutex::default(),
            came: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            threads: Mutex::default(),
        }
    }

    /// Gives a job away; it comes back to `mailbox`.
    pub(crate) fn submit(&self, job: Job, mailbox: &Arc<Mailbox>) {
        let mut state = lock(&self.shared.state);
        state.jobs.push_back((job, Arc::clone(mailbox)));
        let short = state.jobs.len() > state.idle;
        drop(state);
        if short {
            self.grow();
        }
        self.shared.came.notify_one();
    }

    /// One thread more, if there may be one.
    fn grow(&self) {
        let mut threads = lock(&self.threads);
        if threads.len() >= THREADS {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(format!("blk-slow{}", threads.len()));
        match thread.spawn(move || shared.serve()) {
            Ok(thread) => threads.push(thread),
            // The others do it.
            Err(_) if !threads.is_empty() => {}
            Err(error) => {
                log::error!("cannot make a thread for a disk: {error}; its queue waits");
                drop(threads);
                self.shared.serve_waiting();
            }
        }
    }
}

#[cfg(test)]
impl Pool {
    /// Holds all locks of the slow path.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        (lock(&self.shared.state), lock(&self.threads))
    }
}

#[cfg(test)]
impl Mailbox {
    /// Holds the lock.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        lock(&self.done)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.came.notify_all();
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some((job, mailbox)) = state.jobs.pop_front() {
                drop(state);
                self.run(job, &mailbox);
                state = lock(&self.state);
                continue;
            }
            if state.closed {
                return;
            }
            state.idle += 1;
            state = self
                .came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn serve_waiting(&self) {
        loop {
            let next = lock(&self.state).jobs.pop_front();
            let Some((job, mailbox)) = next else { return };
            self.run(job, &mailbox);
        }
    }

    fn run(&self, job: Job, mailbox: &Mailbox) {
        let Job { slot, chain, work } = job;
        let node = self.disk.top();
        let memory = &mailbox.memory;
        let result = match &work {
            Work::Read { offset } => read(node, memory, &chain.writable, *offset),
            Work::Write { offset } => write(node, memory, &chain.readable, *offset),
            Work::Flush => node.flush(),
            Work::Discard(ranges) => ranges.iter().try_for_each(|range| discard(node, range)),
            Work::WriteZeroes(ranges) => ranges
                .iter()
                .try_for_each(|range| node.write_zeroes(range.offset, range.len, range.unmap)),
        };
        mailbox.put(Done {
            slot,
            chain,
            result,
        });
    }
}

fn io(action: &'static str, offset: u64, length: u64) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io {
        action,
        offset,
        length,
        source: io::Error::from(source.kind()),
    }
}

fn discard(node: &Node, range: &Range) -> Result<(), Error> {
    match node {
        Node::Qcow2(image) => image.discard(range.offset, range.len),
        Node::Raw(disk) => disk
            .storage()
            .discard(range.offset, range.len)
            .map_err(|source| Error::Io {
                action: "discard",
                offset: range.offset,
                length: range.len,
                source,
            }),
    }
}

fn buffer(len: u64, offset: u64) -> Result<AlignedBuf, Error> {
    let len = len.min(CHUNK);
    AlignedBuf::new(len as usize, ALIGNMENT).map_err(io("find memory for", offset, len))
}

/// The memory was that of the chain when it was popped.
fn not_in_memory(offset: u64, len: usize) -> Error {
    io("copy", offset, len as u64)(io::ErrorKind::InvalidInput.into())
}

fn write(node: &Node, memory: &GuestMemory, data: &Segments, offset: u64) -> Result<(), Error> {
    let mut buf = buffer(data.len(), offset)?;
    let mut at = offset;
    let mut filled = 0;
    for (addr, len) in data.parts() {
        let mut done = 0;
        while done < len {
            let count = (len - done).min(buf.len() - filled);
            memory
                .read_slice(
                    &mut buf[filled..filled + count],
                    addr.unchecked_add(done as u64),
                )
                .map_err(|_| not_in_memory(at, count))?;
            filled += count;
            done += count;
            if filled == buf.len() {
                node.write_at(&buf, at)?;
                at += filled as u64;
                filled = 0;
            }
        }
    }
    if filled > 0 {
        node.write_at(&buf[..filled], at)?;
    }
    Ok(())
}

fn read(node: &Node, memory: &GuestMemory, data: &Segments, offset: u64) -> Result<(), Error> {
    let mut buf = buffer(data.len(), offset)?;
    let end = offset + data.len();
    let mut at = offset;
    let (mut taken, mut filled) = (0, 0);
    for (addr, len) in data.parts() {
        let mut done = 0;
        while done < len {
            if taken == filled {
                filled = (end - at).min(buf.len() as u64) as usize;
                taken = 0;
                node.read_at(&mut buf[..filled], at)?;
                at += filled as u64;
            }
            let count = (len - done).min(filled - taken);
            memory
                .write_slice(&buf[taken..taken + count], addr.unchecked_add(done as u64))
                .map_err(|_| not_in_memory(at, count))?;
            taken += count;
            done += count;
        }
    }
    Ok(())
}
