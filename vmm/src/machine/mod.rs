//! A machine's life: built, run, ended.
//!
//! The main thread runs the event loop: signals, the console's input, and the news that a vCPU
//! has ended. Each vCPU has a thread, which serves its own exits, and so has each queue of a virtio
//! device that its driver has started. There are no other threads.

mod build;
mod clients;
mod disk_watch;
mod ended;
mod input;
mod signals;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use strata_vcpu::{Cause, ExitReason, VcpuThread};

use self::build::Machine;
pub(crate) use self::build::map_ram;
use self::clients::Clients;
use self::disk_watch::DiskWatch;
pub use self::ended::Ended;
use self::ended::EndedWatch;
use self::input::{Input, Source};
use self::signals::Signals;
use crate::arch;
use crate::config::MachineConfig;
use crate::console::terminal::RawMode;
use crate::devices::VirtioConsole;
use crate::error::Error;
use crate::exit::Outcome;
use crate::sys;

/// How long the vCPUs have been running when what only the start needed is given back, in
/// milliseconds. It costs as much as all of the wiring: on a host with one CPU to spare the guest
/// would enter later.
const SETTLED_MS: i32 = 50;
/// No limit to the wait for an event.
const FOREVER: i32 = -1;

/// Where the parts of the main loop say that, and how, the machine ends.
#[derive(Clone, Default)]
struct End(Rc<Cell<Option<Finish>>>);

/// What ends the main loop.
#[derive(Clone, Copy, Debug)]
enum Finish {
    /// From outside: a signal, or the person at the console.
    Outside(Outcome),
    /// A vCPU has ended; [`Ended`] says why.
    Vcpu,
}

/// Where the parts of the main loop say that the vCPUs are to pause, or to go on.
#[derive(Clone, Default)]
struct Pace(Rc<Cell<Option<Wish>>>);

#[derive(Clone, Copy, Debug)]
enum Wish {
    /// A disk can not go on.
    Pause,
    /// The user has seen to it.
    Resume,
}

impl End {
    fn set(&self, finish: Finish) {
        if self.0.get().is_none() {
            self.0.set(Some(finish));
        }
    }
}

/// Adds a descriptor of our own to the loop, which can only fail for want of kernel memory: the
/// machine then goes on without that descriptor's events, and says so.
fn watch(ops: &mut EventOps<'_>, events: Events) {
    if let Err(error) = ops.add(events) {
        log::error!("the event loop does not take a descriptor: {error}");
    }
}

/// Builds the machine that `config` describes, and runs it to its end.
///
/// # Errors
/// When the machine can not be built, or can not go on for a reason that is not the guest's own.
pub fn run(config: &MachineConfig) -> Result<Outcome, Error> {
    // Before there is any other thread, so that all have these signals blocked.
    let signals = Signals::block()?;
    let mut machine = Machine::build(config)?;
    let raw_mode = if config.has_stdio() {
        let entered = RawMode::enter().map_err(|source| Error::Host {
            what: "set up the terminal",
            source,
        })?;
        entered.map(Rc::new)
    } else {
        None
    };
    let console = machine.small.console.take();
    let finish = main_loop(&machine, console, signals, raw_mode.clone())?;
    // No vCPU writes to the terminal any more once it is given back.
    let Machine {
        vcpus,
        ended,
        pci,
        disks,
        ..
    } = machine;
    for vcpu in &vcpus {
        vcpu.stop()?;
    }
    pci.stop();
    let closed = disks.close();
    let outcome = match finish {
        Finish::Outside(outcome) => Ok(outcome),
        Finish::Vcpu => outcome_of(&vcpus, &ended),
    };
    drop(vcpus);
    drop(raw_mode);
    closed.and(outcome)
}

fn main_loop(
    machine: &Machine,
    console: Option<VirtioConsole>,
    signals: std::os::fd::OwnedFd,
    raw_mode: Option<Rc<RawMode>>,
) -> Result<Finish, Error> {
    let end = End::default();
    let pace = Pace::default();
    let interactive = raw_mode.is_some();
    let mut events =
        EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(Error::EventLoop)?;
    events.add_subscriber(Box::new(EndedWatch::new(
        machine.ended.clone(),
        end.clone(),
    )));
    let button = machine.power_button.clone();
    events.add_subscriber(Box::new(Signals::new(
        signals,
        button,
        raw_mode,
        console
            .as_ref()
            .filter(|console| console.input.is_some())
            .map(|console| console.handle.clone()),
        end.clone(),
        pace.clone(),
    )));
    let stopped = machine.disks.stopped();
    events.add_subscriber(Box::new(DiskWatch::new(stopped, pace.clone())?));
    if let Some(source) = machine.take_input() {
        let port = machine.serial.clone();
        // A socket's client has no use for our commands.
        let interactive = interactive && matches!(source, Source::Stdin);
        events.add_subscriber(Box::new(Input::new(source, port, interactive, end.clone())));
    }
    if let Some(console) = console {
        if let Some(input) = console.input {
            let port = Arc::new(input);
            let input = Input::new(Source::Stdin, port, interactive, end.clone());
            events.add_subscriber(Box::new(input));
        }
        let clients = Clients::new(console.handle, console.listeners);
        events.add_subscriber(Box::new(clients));
    }
    for vcpu in &machine.vcpus {
        vcpu.resume()?;
    }
    let mut timeout = SETTLED_MS;
    loop {
        events.run_with_timeout(timeout).map_err(Error::EventLoop)?;
        if timeout != FOREVER {
            sys::drop_startup_memory();
            timeout = FOREVER;
        }
        if let Some(finish) = end.0.get() {
            return Ok(finish);
        }
        match pace.0.take() {
            Some(Wish::Pause) => machine.vcpus.iter().try_for_each(VcpuThread::pause)?,
            Some(Wish::Resume) => {
                machine.disks.retry();
                resume(&machine.vcpus)?;
            }
            None => {}
        }
    }
}

/// Lets vCPUs run, but for those that have ended, of which the main loop has yet to hear.
fn resume(vcpus: &[VcpuThread]) -> Result<(), Error> {
    for vcpu in vcpus {
        match vcpu.resume() {
            Err(strata_vcpu::Error::Ended { .. }) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the first vCPU to end makes of the whole machine.
fn outcome_of(vcpus: &[VcpuThread], ended: &Ended) -> Result<Outcome, Error> {
    let Some((vcpu, reason)) = ended.first() else {
        return Ok(Outcome::Terminated);
    };
    match reason {
        ExitReason::Shutdown => Ok(Outcome::PowerOff),
        ExitReason::Reset => {
            let vcpu = vcpus.iter().find(|thread| thread.index() == vcpu);
            let panicked = vcpu
                .is_some_and(|vcpu| vcpu.with_paused(arch::reset_was_abrupt).unwrap_or_default());
            Ok(if panicked {
                Outcome::GuestPanic
            } else {
                Outcome::Reboot
            })
        }
        ExitReason::Abnormal(exit) if exit.cause == Cause::TripleFault => {
            log::warn!("{exit}");
            Ok(Outcome::GuestPanic)
        }
        ExitReason::Abnormal(exit) => Err(Error::Stopped(exit)),
        ExitReason::Halted | ExitReason::Stopped | _ => Ok(Outcome::Terminated),
    }
}
