//! From the kick to the completion: without a lock, a copy or an allocation, as long as the data
//! lies where it can be read or overwritten.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strata_qcow2::Ticket;
use strata_virtio::{Error, Queue};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::device::{Failure, SERIAL, Shared};
use super::request::{Bounds, HEADER, MAX_RANGES, Request, Status};
use super::worker::{MAILBOX, OWNER, Running, Stage, TIMER, broken};
use crate::disk::Disk;
use crate::options::{Cache, ErrorPolicy};
use crate::slow::{Done, Job, Work};
use crate::stats::Operation;
use crate::sys::{Completion, Direction, Event, SlotId, is_readable};

/// Requests taken up in one turn, after which events have theirs.
const BUDGET: usize = 1024;

/// Requests that an idle file is given while the rest of a batch is still decoded. A disk that ends
/// its requests in batches would otherwise stand still meanwhile, 5 to 10 % of its time. Pieces of
/// 4, or more than one, cost CPU time and win nothing (`benches/ring`).
const HEAD_START: usize = 8;

/// Why no more was taken up.
enum Taken {
    /// There is no more.
    All,
    /// Something is in the way.
    Stalled,
    /// It is enough for one turn.
    Budget,
}

/// A worker at work on its queue.
pub(super) struct Server<'a> {
    pub(super) shared: &'a Shared,
    /// The driver flushes.
    pub(super) flushes: bool,
    pub(super) running: &'a mut Running,
    pub(super) queue: &'a mut Queue,
    /// Readable when the owner wants the worker back in its loop.
    pub(super) owner: &'a EventFd,
}

impl Server<'_> {
    /// Finishes what is done and takes up what is available, until the owner calls.
    pub(super) fn serve(&mut self) -> Result<(), Error> {
        // The ring tells of a call once, and the loop may have something else to do first.
        self.running.called = is_readable(self.owner);
        loop {
            self.queue.disable_kicks()?;
            self.finish_completed()?;
            // Before more is taken up: the driver runs meanwhile.
            self.notify()?;
            let taken = self.take_up()?;
            self.notify()?;
            if self.running.called {
                return self.submit();
            }
            let more = match taken {
                Taken::All => self.queue.enable_kicks()?,
                // A queue that is stalled is looked at again when what it waits for has come.
                Taken::Stalled => false,
                Taken::Budget => true,
            };
            // What was taken up does not wait for a guest that adds faster than it is served.
            if more {
                self.submit()?;
            } else {
                self.wait()?;
            }
        }
    }

    fn wait(&mut self) -> Result<(), Error> {
        let waited = self.running.ring.wait();
        waited.map_err(broken("wait for io_uring"))
    }

    fn notify(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.running.unnotified) {
            self.queue.notify()?;
        }
        Ok(())
    }

    /// One system call for everything that was queued.
    fn submit(&mut self) -> Result<(), Error> {
        // False: completions must be taken first, which the next turn does.
        self.running
            .ring
            .submit()
            .map(drop)
            .map_err(broken("submit to io_uring"))
    }

    fn take_up(&mut self) -> Result<Taken, Error> {
        for _ in 0..BUDGET {
            // Failed requests wait for the owner, and nothing overtakes them.
            if self.running.throttled.is_some() || !self.running.parked.is_empty() {
                return Ok(Taken::Stalled);
            }
            let Some(slot) = self.running.take_slot() else {
                return Ok(Taken::Stalled);
            };
            let Some(chain) = self.running.ring.chain(slot) else {
                continue;
            };
            if !self.queue.pop(chain)? {
                self.running.free.push(slot);
                return Ok(Taken::All);
            }
            self.accept(slot)?;
            if self.running.ring.held_back() >= HEAD_START {
                self.submit()?;
            }
        }
        Ok(Taken::Budget)
    }

    /// Decodes a request that was popped into `slot` and starts it, unless the limit holds it.
    fn accept(&mut self, slot: SlotId) -> Result<(), Error> {
        let Running {
            ring,
            memory,
            entries,
            ..
        } = &mut *self.running;
        let Some(chain) = ring.chain(slot) else {
            return Ok(());
        };
        let header: [u8; HEADER] = chain
            .readable
            .read_obj(memory)
            .map_err(|e| self.queue.error(e))?;
        let status = chain.writable.pop_back().map_err(|e| self.queue.error(e))?;
        let entry = &mut entries[usize::from(slot)];
        entry.head = chain.head();
        entry.status = status;
        entry.stage = Stage::Main;
        let bounds = bounds(&self.shared.disk);
        let decoded = bounds.decode(&header, chain.readable.len(), chain.writable.len());
        let decoded = match decoded {
            Ok(request) => {
                entry.request = request;
                entry.bytes = request.bytes();
                self.take_ranges(slot, bounds)?
            }
            Err(status) => Err(status),
        };
        match decoded {
            Ok(()) => self.admit(slot),
            Err(status) => self.refuse(slot, status),
        }
    }

    /// Takes note of what a request discards or zeroes. It is read once: what the guest writes there
    /// while the request waits has no effect.
    fn take_ranges(&mut self, slot: SlotId, bounds: Bounds) -> Result<Result<(), Status>, Error> {
        let Running {
            ring,
            memory,
            entries,
            ..
        } = &mut *self.running;
        let entry = &mut entries[usize::from(slot)];
        let zeroes = match entry.request {
            Request::Discard => false,
            Request::WriteZeroes => true,
            _ => return Ok(Ok(())),
        };
        let Some(chain) = ring.chain(slot) else {
            return Ok(Ok(()));
        };
        // One byte more than can be: too much is seen as that.
        let mut raw = [0; MAX_RANGES * 16 + 1];
        let count = chain.readable.read(memory, &mut raw);
        let count = count.map_err(|e| self.queue.error(e))?;
        let ranges = bounds.ranges(&raw[..count], zeroes);
        Ok(ranges.map(|ranges| {
            entry.bytes = ranges.iter().map(|range| range.len).sum();
            entry.ranges = ranges;
        }))
    }

    /// Starts a request, or keeps it until the limit lets it go.
    fn admit(&mut self, slot: SlotId) -> Result<(), Error> {
        let entry = &self.running.entries[usize::from(slot)];
        // A host may have to write zeroes as any other bytes; what is discarded moves none.
        let bytes = match entry.request {
            Request::Discard => 0,
            _ => entry.bytes,
        };
        let Err(wait) = self.shared.limiter.admit(bytes) else {
            return self.start(slot);
        };
        self.running.throttled = Some(slot);
        // A timer of 0 would never end.
        let wait = wait.max(Duration::from_nanos(1));
        let timer = &mut self.running.timer;
        timer
            .reset(wait, None)
            .map_err(|e| broken("set a timer")(e.into()))
    }

    /// Starts a request.
    fn start(&mut self, slot: SlotId) -> Result<(), Error> {
        let entry = &self.running.entries[usize::from(slot)];
        match entry.request {
            Request::Read { len: 0, .. } | Request::Write { len: 0, .. } => self.succeed(slot),
            Request::Read { offset, len } => self.transfer(slot, Direction::Read, offset, len),
            Request::Write { offset, len } => self.transfer(slot, Direction::Write, offset, len),
            Request::Flush => self.flush(slot),
            Request::GetId => self.get_id(slot),
            Request::Discard => self.slow(slot, Work::Discard(entry.ranges.clone())),
            Request::WriteZeroes => self.slow(slot, Work::WriteZeroes(entry.ranges.clone())),
        }
    }

    /// Reads or writes: straight between guest memory and the files if it can be.
    fn transfer(
        &mut self,
        slot: SlotId,
        direction: Direction,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        let disk = &self.shared.disk;
        let write = direction == Direction::Write;
        let alignment = disk.alignment();
        if self.running.ring.is_aligned(slot, direction, alignment) {
            let ticket = disk.enter();
            // It may have become smaller; from here on it does not.
            if !self.fits(slot) {
                leave(disk, ticket);
                return self.refuse(slot, Status::IoError);
            }
            let running = &mut *self.running;
            let planned = if write {
                disk.plan_write(offset, len, &mut running.plan)
            } else {
                disk.plan_read(offset, len, &mut running.plan)
            };
            match planned {
                Ok(true) => {
                    running.entries[usize::from(slot)].ticket = ticket;
                    let under_way = running.ring.transfer(slot, direction, running.plan.runs());
                    return if under_way {
                        Ok(())
                    } else {
                        self.succeed(slot)
                    };
                }
                Ok(false) => leave(disk, ticket),
                Err(error) => {
                    leave(disk, ticket);
                    return self.fail(slot, error.io(), &error);
                }
            }
        }
        let work = if write {
            Work::Write { offset }
        } else {
            Work::Read { offset }
        };
        self.slow(slot, work)
    }

    fn flush(&mut self, slot: SlotId) -> Result<(), Error> {
        let disk = &self.shared.disk;
        if disk.cache() == Cache::Unsafe || disk.read_only() {
            return self.succeed(slot);
        }
        match disk.plain_file() {
            Some(file) => {
                self.running.ring.flush(slot, file);
                Ok(())
            }
            None => self.slow(slot, Work::Flush),
        }
    }

    fn get_id(&mut self, slot: SlotId) -> Result<(), Error> {
        let Running { ring, memory, .. } = &mut *self.running;
        if let Some(chain) = ring.chain(slot) {
            chain
                .writable
                .write(memory, &self.shared.serial)
                .map_err(|e| self.queue.error(e))?;
        }
        self.succeed(slot)
    }

    fn slow(&mut self, slot: SlotId, work: Work) -> Result<(), Error> {
        let Running {
            ring,
            mailbox,
            slow,
            entries,
            ..
        } = &mut *self.running;
        if let Some(chain) = ring.chain(slot) {
            let chain = std::mem::take(chain);
            let entry = &entries[usize::from(slot)];
            self.shared.counters.slow(operation(entry.request));
            self.shared.pool.submit(Job { slot, chain, work }, mailbox);
            *slow += 1;
        }
        Ok(())
    }

    /// Takes in everything that the ring has to say.
    fn finish_completed(&mut self) -> Result<(), Error> {
        while let Some(event) = self.running.ring.event() {
            match event {
                Event::Done(completion) => self.finish(completion)?,
                Event::Readable(MAILBOX) => self.take_mail()?,
                Event::Readable(TIMER) => self.release_throttled()?,
                // It may be an old one.
                Event::Readable(OWNER) => self.running.called = is_readable(self.owner),
                Event::Readable(_) => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, completion: Completion) -> Result<(), Error> {
        let Completion { slot, result } = completion;
        self.release_ticket(slot);
        let Err(failure) = result else {
            return self.advance(slot);
        };
        let entry = &self.running.entries[usize::from(slot)];
        let action = match (entry.stage, entry.request) {
            (Stage::Flush, _) | (_, Request::Flush) => "flush",
            (_, Request::Write { .. }) => "write",
            _ => "read",
        };
        let file = self.shared.disk.files().get(usize::from(failure.file));
        if let Some(file) = file {
            file.report(action, failure.offset, failure.len, &failure.error);
        }
        self.fail(slot, Some(&failure.error), &failure.error)
    }

    /// Finishes what the slow path has done, and does what the owner asks for.
    fn take_mail(&mut self) -> Result<(), Error> {
        let mut done = std::mem::take(&mut self.running.done);
        self.running.mailbox.take(&mut done);
        for Done {
            slot,
            chain,
            result,
        } in done.drain(..)
        {
            self.running.slow -= 1;
            if let Some(place) = self.running.ring.chain(slot) {
                *place = chain;
            }
            match result {
                Ok(()) => self.advance(slot)?,
                Err(_) if !self.fits(slot) => self.refuse(slot, Status::IoError)?,
                Err(error) => self.fail(slot, error.io(), &error)?,
            }
        }
        self.running.done = done;
        if self.running.mailbox.take_retry() {
            self.retry_parked()?;
        }
        // The limits may be others.
        self.release_throttled()
    }

    /// The next step of a request whose last one succeeded.
    fn advance(&mut self, slot: SlotId) -> Result<(), Error> {
        let entry = &mut self.running.entries[usize::from(slot)];
        let changes = matches!(
            entry.request,
            Request::Write { .. } | Request::Discard | Request::WriteZeroes
        );
        let volatile = self.flushes && self.shared.writeback.load(Ordering::Relaxed);
        if changes && !volatile && entry.stage == Stage::Main {
            entry.stage = Stage::Flush;
            return self.flush(slot);
        }
        self.succeed(slot)
    }

    fn succeed(&mut self, slot: SlotId) -> Result<(), Error> {
        self.release_ticket(slot);
        let entry = &self.running.entries[usize::from(slot)];
        if entry.request != Request::GetId {
            let operation = operation(entry.request);
            self.shared.counters.done(operation, entry.bytes);
        }
        self.answer(slot, Status::Ok)
    }

    /// Answers a request that can not be; the host has nothing to do with it.
    fn refuse(&mut self, slot: SlotId, status: Status) -> Result<(), Error> {
        // What the guest may ask for at any rate is no failure of the disk.
        self.running.entries[usize::from(slot)].request = Request::GetId;
        self.answer(slot, status)
    }

    /// Deals with a request that the host could not fulfil.
    fn fail(
        &mut self,
        slot: SlotId,
        cause: Option<&io::Error>,
        reason: &dyn std::fmt::Display,
    ) -> Result<(), Error> {
        let request = self.running.entries[usize::from(slot)].request;
        let operation = operation(request);
        let policy = match operation {
            Operation::Read => self.shared.read_errors,
            _ => self.shared.write_errors,
        };
        self.shared.counters.failed(operation);
        if cause.is_none() {
            let name = self.shared.disk.name();
            self.shared.log.error(format_args!(
                "a request to the disk {name} failed: {reason}"
            ));
        }
        if let Some(tell) = &self.shared.on_failure {
            tell(&Failure {
                operation,
                policy,
                no_space: cause.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull),
                reason: reason.to_string(),
            });
        }
        match policy {
            ErrorPolicy::Report => self.answer(slot, Status::IoError),
            ErrorPolicy::Ignore => self.answer(slot, Status::Ok),
            ErrorPolicy::Stop => {
                self.shared.parked.fetch_add(1, Ordering::AcqRel);
                self.running.parked.push(slot);
                Ok(())
            }
        }
    }

    /// Gives a request back to the driver.
    fn answer(&mut self, slot: SlotId, status: Status) -> Result<(), Error> {
        let running = &mut *self.running;
        let entry = &running.entries[usize::from(slot)];
        let Some(chain) = running.ring.chain(slot) else {
            return Ok(());
        };
        let mut written = 1;
        match (entry.request, status) {
            (Request::Read { len, .. }, Status::Ok) => {
                chain.writable.mark_dirty(&running.memory, len);
                written += len as u32;
            }
            // Part of it may have come before the failure.
            (Request::Read { len, .. }, _) => {
                chain.writable.mark_dirty(&running.memory, len);
                written = 0;
            }
            (Request::GetId, Status::Ok) => {
                // Behind a longer buffer, the status is not in one piece with it.
                let whole = chain.writable.is_empty();
                written = SERIAL as u32 + u32::from(whole);
            }
            _ if !chain.writable.is_empty() => written = 0,
            _ => {}
        }
        running
            .memory
            .write_obj(status as u8, entry.status)
            .map_err(|_| Error::Driver("a status byte is not in guest memory"))?;
        self.queue.push(entry.head, written)?;
        running.free.push(slot);
        running.unnotified = true;
        Ok(())
    }

    fn release_ticket(&mut self, slot: SlotId) {
        let ticket = self.running.entries[usize::from(slot)].ticket.take();
        leave(&self.shared.disk, ticket);
    }

    /// The request that the limit holds back may have to wait no longer.
    fn release_throttled(&mut self) -> Result<(), Error> {
        match self.running.throttled.take() {
            Some(slot) if self.fits(slot) => self.admit(slot),
            Some(slot) => self.refuse(slot, Status::IoError),
            None => Ok(()),
        }
    }

    /// Whether a request that has waited is still inside of the disk, which may be smaller by now.
    fn fits(&self, slot: SlotId) -> bool {
        let entry = &self.running.entries[usize::from(slot)];
        let size = self.shared.disk.size();
        match entry.request {
            Request::Read { offset, len } | Request::Write { offset, len } => offset + len <= size,
            Request::Discard | Request::WriteZeroes => {
                entry.ranges.iter().all(|r| r.offset + r.len <= size)
            }
            Request::Flush | Request::GetId => true,
        }
    }

    /// Tries again what has failed: the owner has said so.
    fn retry_parked(&mut self) -> Result<(), Error> {
        for slot in std::mem::take(&mut self.running.parked) {
            self.shared.parked.fetch_sub(1, Ordering::AcqRel);
            match self.running.entries[usize::from(slot)].stage {
                Stage::Main if self.fits(slot) => self.start(slot)?,
                Stage::Main => self.refuse(slot, Status::IoError)?,
                Stage::Flush => self.flush(slot)?,
            }
        }
        Ok(())
    }

    /// Waits until the kernel and the slow path are done with guest memory.
    pub(super) fn drain(&mut self) -> Result<(), Error> {
        if let Some(slot) = self.running.throttled.take() {
            // It was popped last.
            self.queue.unpop();
            self.running.free.push(slot);
        }
        loop {
            self.submit()?;
            self.finish_completed()?;
            if self.running.ring.pending() > 0 {
                self.wait()?;
            } else if self.running.slow > 0 {
                self.running.mailbox.wait();
                self.take_mail()?;
            } else {
                return self.notify();
            }
        }
    }
}

fn bounds(disk: &Disk) -> Bounds {
    Bounds {
        size: disk.size(),
        alignment: disk.alignment(),
        read_only: disk.read_only(),
    }
}

fn leave(disk: &Disk, ticket: Option<Ticket>) {
    if let Some(ticket) = ticket {
        disk.leave(ticket);
    }
}

fn operation(request: Request) -> Operation {
    match request {
        Request::Read { .. } | Request::GetId => Operation::Read,
        Request::Write { .. } => Operation::Write,
        Request::Flush => Operation::Flush,
        Request::Discard => Operation::Discard,
        Request::WriteZeroes => Operation::WriteZeroes,
    }
}
