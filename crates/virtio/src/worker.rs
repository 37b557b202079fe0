//! Who serves queues: the worker, its thread, and the loop in it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::Assignment;
use crate::error::Error;
use crate::interrupt::Signals;
use crate::queue::{Queue, QueueState};

/// Serves some queues of a device, in a thread that calls nothing else.
///
/// An error that any of these returns breaks the device: the driver sees NEEDS_RESET, the worker is
/// drained and no longer called, and the machine goes on.
///
/// No call should last: the worker can not be paused or reset meanwhile, unless the call returns
/// when [`Context::owner`] is readable. A guest can add requests as
/// fast as they are served, so [`kicked`](Self::kicked) serves a bounded number of them and then
/// [kicks itself](Queue::kick).
pub trait Worker: Send {
    /// Called first, in the worker's thread: the place to [watch](Context::watch) files.
    ///
    /// # Errors
    /// See the trait.
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let _ = context;
        Ok(())
    }

    /// Something may be available in `context.queues[queue]`: the driver has kicked it, or it is
    /// kicked to be sure (at the start and after a pause).
    ///
    /// # Errors
    /// See the trait.
    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error>;

    /// A file that was watched with `token` is ready.
    ///
    /// # Errors
    /// See the trait.
    fn ready(
        &mut self,
        token: u32,
        events: EventSet,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let _ = (token, events, context);
        Ok(())
    }

    /// Finishes what is in flight and takes up nothing new: when this returns, nobody reads or
    /// writes guest memory for the worker any more, and whatever was popped is pushed (or put back,
    /// by [`Queue::unpop`]). It is followed by nothing, by [`resume`](Self::resume), or by `drop`,
    /// and may be called twice.
    ///
    /// # Errors
    /// See the trait.
    fn drain(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let _ = context;
        Ok(())
    }

    /// Goes on after a [`drain`](Self::drain). Every queue is kicked next.
    ///
    /// # Errors
    /// See the trait.
    fn resume(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let _ = context;
        Ok(())
    }
}

/// What a worker works with.
pub struct Context<'a> {
    /// Its queues, in the order of its [`Assignment`].
    pub queues: &'a mut [Queue],
    owner: &'a EventFd,
    watcher: &'a mut dyn Watcher,
}

impl<'a> Context<'a> {
    /// Readable when the owner wants the worker to pause or to end. A worker that waits by itself,
    /// and not in the loop, waits for this too, and returns then. Only the loop reads it; every
    /// queue is kicked afterwards.
    pub fn owner(&self) -> &'a EventFd {
        self.owner
    }

    /// Calls [`Worker::ready`] with `token` whenever `file` has one of `events`. `token` is below
    /// 2³¹.
    ///
    /// # Errors
    /// [`Error::Events`] if the file can not be watched, or is watched already.
    pub fn watch(
        &mut self,
        file: &impl AsRawFd,
        events: EventSet,
        token: u32,
    ) -> Result<(), Error> {
        self.watcher.add(Events::with_data(file, token, events))
    }

    /// Changes what `file` is watched for; the empty set suspends it.
    ///
    /// # Errors
    /// [`Error::Events`] if the file is not watched.
    pub fn rewatch(
        &mut self,
        file: &impl AsRawFd,
        events: EventSet,
        token: u32,
    ) -> Result<(), Error> {
        self.watcher.modify(Events::with_data(file, token, events))
    }

    /// Whether kicks of `self.queues[queue]` call [`Worker::kicked`]: no longer while somebody else
    /// (vhost) has the queue's [`kick_fd`](Queue::kick_fd), and again afterwards. To be called
    /// where it changes.
    ///
    /// # Errors
    /// [`Error::Events`] if it is so already.
    pub fn watch_kicks(&mut self, queue: usize, watch: bool) -> Result<(), Error> {
        let Some(its) = self.queues.get(queue) else {
            return Ok(());
        };
        if watch {
            self.watcher.add(kicks(its, queue))
        } else {
            self.watcher.remove(Events::empty(its.kick_fd()))
        }
    }

    /// No longer watches `file`. To be called before it is closed.
    ///
    /// # Errors
    /// [`Error::Events`] if the file is not watched.
    pub fn unwatch(&mut self, file: &impl AsRawFd) -> Result<(), Error> {
        self.watcher.remove(Events::empty(file))
    }
}

/// `EventOps`, whose lifetime is nobody's business.
trait Watcher {
    fn add(&mut self, events: Events) -> Result<(), Error>;
    fn modify(&mut self, events: Events) -> Result<(), Error>;
    fn remove(&mut self, events: Events) -> Result<(), Error>;
}

fn failed(action: &'static str) -> impl Fn(event_manager::Error) -> Error {
    move |source| Error::Events { action, source }
}

impl Watcher for EventOps<'_> {
    fn add(&mut self, events: Events) -> Result<(), Error> {
        EventOps::add(self, events).map_err(failed("watch a file"))
    }

    fn modify(&mut self, events: Events) -> Result<(), Error> {
        EventOps::modify(self, events).map_err(failed("watch a file otherwise"))
    }

    fn remove(&mut self, events: Events) -> Result<(), Error> {
        EventOps::remove(self, events).map_err(failed("no longer watch a file"))
    }
}

/// Tokens of the loop's own files have this bit: a queue's position is the rest of it.
const OWN: u32 = 1 << 31;
/// The token of the command's eventfd.
const COMMAND: u32 = u32::MAX;

/// The kicks of the queue at `position`.
fn kicks(queue: &Queue, position: usize) -> Events {
    // A device has at most 1024 queues. Edge triggered, so that nobody has to read it: one system
    // call less for a kick.
    let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
    Events::with_data(queue.kick_fd(), OWN | position as u32, set)
}

/// What a worker does when its thread has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Serves its queues.
    Running,
    /// Waits for the resume of its machine.
    Parked,
}

enum Command {
    /// Drain, answer with the queues' states, and wait.
    Pause(Sender<Vec<(u16, QueueState)>>),
    /// Go on.
    Resume,
    /// Drain, and wait for the end: the device is broken.
    Break,
    /// Drain and end.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// After an error: drained, and no longer called.
    Broken,
    Stopped,
}

/// A worker in its loop.
struct Looped {
    worker: Box<dyn Worker>,
    queues: Vec<Queue>,
    name: String,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    signals: Arc<Signals>,
    start: Start,
    phase: Phase,
}

impl Looped {
    fn call(
        &mut self,
        ops: &mut EventOps<'_>,
        call: impl FnOnce(&mut dyn Worker, &mut Context<'_>) -> Result<(), Error>,
    ) {
        if self.phase != Phase::Running {
            return;
        }
        let mut context = Context {
            queues: &mut self.queues,
            owner: &self.wake,
            watcher: ops,
        };
        if let Err(error) = call(&mut *self.worker, &mut context) {
            self.fail(&error, ops);
        }
    }

    /// Breaks the device and parks: whatever is watched is no longer looked at.
    fn fail(&mut self, error: &Error, ops: &mut EventOps<'_>) {
        self.phase = Phase::Broken;
        self.signals.break_device(&self.name, error);
        self.drain(ops);
        self.park(ops);
    }

    /// Drains the worker, in whatever phase it is.
    fn drain(&mut self, ops: &mut EventOps<'_>) {
        let mut context = Context {
            queues: &mut self.queues,
            owner: &self.wake,
            watcher: ops,
        };
        if let Err(error) = self.worker.drain(&mut context) {
            self.phase = Phase::Broken;
            self.signals.break_device(&self.name, &error);
        }
    }

    fn kick_all(&mut self, ops: &mut EventOps<'_>) {
        for queue in 0..self.queues.len() {
            self.call(ops, |worker, context| worker.kicked(queue, context));
        }
    }

    fn watch_own(&self, ops: &mut EventOps<'_>) -> Result<(), Error> {
        Watcher::add(ops, Events::with_data(&*self.wake, COMMAND, EventSet::IN))?;
        let mut queues = self.queues.iter().enumerate();
        queues.try_for_each(|(position, queue)| Watcher::add(ops, kicks(queue, position)))
    }

    fn commanded(&mut self, ops: &mut EventOps<'_>) {
        let _ = self.wake.read();
        while self.phase != Phase::Stopped {
            match self.commands.try_recv() {
                Ok(Command::Pause(answer)) => {
                    self.drain(ops);
                    self.answer(&answer);
                    self.park(ops);
                }
                Ok(Command::Break) => {
                    self.phase = Phase::Broken;
                    self.drain(ops);
                    self.park(ops);
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => self.stop(ops),
                Ok(Command::Resume) => {}
                // Whoever waited by itself has come back for this.
                Err(TryRecvError::Empty) => return self.kick_all(ops),
            }
        }
    }

    fn answer(&self, answer: &Sender<Vec<(u16, QueueState)>>) {
        let states = self.queues.iter().map(|q| (q.index(), q.state()));
        // Whoever asked may have given up.
        let _ = answer.send(states.collect());
    }

    fn stop(&mut self, ops: &mut EventOps<'_>) {
        self.drain(ops);
        self.phase = Phase::Stopped;
    }

    /// Waits, drained, until the worker may go on or has to end.
    fn park(&mut self, ops: &mut EventOps<'_>) {
        loop {
            match self.commands.recv() {
                Ok(Command::Pause(answer)) => self.answer(&answer),
                Ok(Command::Resume) if self.phase == Phase::Running => {
                    self.call(ops, |worker, context| worker.resume(context));
                    return self.kick_all(ops);
                }
                // A broken one stays.
                Ok(Command::Resume) => {}
                Ok(Command::Break) => self.phase = Phase::Broken,
                Ok(Command::Stop) | Err(_) => return self.stop(ops),
            }
        }
    }
}

impl MutEventSubscriber for Looped {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = self.watch_own(ops) {
            self.fail(&error, ops);
        }
        self.call(ops, |worker, context| worker.start(context));
        match self.start {
            Start::Running => self.kick_all(ops),
            Start::Parked if self.phase == Phase::Running => self.park(ops),
            Start::Parked => {}
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            COMMAND => self.commanded(ops),
            token if token & OWN != 0 => {
                let queue = (token & !OWN) as usize;
                self.call(ops, |worker, context| worker.kicked(queue, context));
            }
            token => self.call(ops, |worker, context| {
                worker.ready(token, events.event_set(), context)
            }),
        }
    }
}

/// A worker's stack: far more than any needs, and less than a huge page. Where the host has
/// transparent huge pages for everything, the first touch of a stack of 2 MiB takes all of it.
const STACK_SIZE: usize = 256 << 10;

/// A worker's thread, from the transport's side.
#[derive(Debug)]
pub(crate) struct Thread {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    handle: JoinHandle<()>,
}

impl Thread {
    pub(crate) fn spawn(
        name: String,
        assignment: Assignment,
        signals: Arc<Signals>,
        start: Start,
    ) -> Result<Self, Error> {
        let io = |action| move |source: io::Error| Error::Io { action, source };
        let (commands, receiver) = channel();
        let wake = EventFd::new(EFD_NONBLOCK).map_err(io("make an eventfd"))?;
        let wake = Arc::new(wake);
        let mut manager = EventManager::new().map_err(failed("make an event loop"))?;
        let looped = Looped {
            worker: assignment.worker,
            queues: assignment.queues,
            name: name.clone(),
            commands: receiver,
            wake: Arc::clone(&wake),
            signals,
            start,
            phase: Phase::Running,
        };
        let handle = thread::Builder::new()
            .name(name)
            .stack_size(STACK_SIZE)
            .spawn(move || run(&mut manager, looped))
            .map_err(io("start a thread"))?;
        Ok(Self {
            commands,
            wake,
            handle,
        })
    }

    /// Drains the worker and parks it. Its queues' states come by the receiver.
    pub(crate) fn pause(&self) -> Result<Receiver<Vec<(u16, QueueState)>>, Error> {
        let (sender, receiver) = channel();
        self.send(Command::Pause(sender))?;
        Ok(receiver)
    }

    /// Lets a parked worker go on.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.send(Command::Resume)
    }

    /// Has the worker drained, and no longer called until it is [stopped](Self::stop).
    pub(crate) fn give_up(&self) {
        // A thread that has ended has nothing to give up.
        let _ = self.send(Command::Break);
    }

    /// Has the worker drained and dropped, at once or later.
    pub(crate) fn stop(&self) {
        // A thread that has ended needs no stop.
        let _ = self.send(Command::Stop);
    }

    /// Whether the worker is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until the worker is gone.
    pub(crate) fn join(self) {
        let Self { handle, .. } = self;
        if handle.join().is_err() {
            log::error!("a worker of a device panicked");
        }
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::WorkerGone)?;
        self.wake.write(1).map_err(|source| Error::Io {
            action: "wake a worker",
            source,
        })
    }
}

fn run(manager: &mut EventManager<Looped>, looped: Looped) {
    let name = looped.name.clone();
    let id = manager.add_subscriber(looped);
    loop {
        match manager.subscriber_mut(id) {
            Ok(looped) if looped.phase != Phase::Stopped => {}
            _ => return,
        }
        if let Err(error) = manager.run() {
            if let Ok(looped) = manager.subscriber_mut(id) {
                looped.signals.break_device(&name, &error);
            }
            return;
        }
    }
}
