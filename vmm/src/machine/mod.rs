//! A machine's life: built, run, ended.
//!
//! The main thread runs the event loop: signals, the console's input, and the news that a vCPU
//! has ended. Each vCPU has a thread, which serves its own exits, and so has each queue of a virtio
//! device that its driver has started. A device that is removed has one more while it is closed.
//! There are no other threads.

mod build;
mod clients;
mod disk_watch;
mod ended;
mod hot_plug_watch;
mod input;
mod pace;
mod restart;
mod signals;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use serde_json::json;
use strata_vcpu::{Cause, ExitReason};

use self::build::Machine;
pub(crate) use self::build::{Parts, map_ram};
use self::clients::Clients;
use self::disk_watch::DiskWatch;
pub use self::ended::Ended;
use self::ended::EndedWatch;
use self::hot_plug_watch::HotPlugWatch;
use self::input::{Input, Source};
pub use self::pace::{Pace, Status};
use self::signals::Signals;
use crate::announce::Announcer;
use crate::arch;
use crate::config::{MachineConfig, OnReboot};
use crate::console::terminal::RawMode;
use crate::control::{Control, Server};
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
#[derive(Clone, Debug, Default)]
pub(crate) struct End(Rc<Cell<Option<Finish>>>);

/// What ends the main loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finish {
    /// From outside: a signal, or the person at the console.
    Outside(Outcome),
    /// A vCPU has ended; [`Ended`] says why.
    Vcpu,
    /// The machine starts again, on a client's request.
    Reset,
}

impl End {
    /// Ends the main loop. A wish from outside is not lost to a guest that reboots at that moment.
    pub(crate) fn set(&self, finish: Finish) {
        if !matches!(self.0.get(), Some(Finish::Outside(_))) {
            self.0.set(Some(finish));
        }
    }
}

/// Adds a descriptor of our own to the loop, which can only fail for want of kernel memory: the
/// machine then goes on without that descriptor's events, and says so.
pub(crate) fn watch(ops: &mut EventOps<'_>, events: Events) {
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
    let pace = Pace::new(
        machine.vcpus.clone(),
        machine.pci.clone(),
        machine.disks.clone(),
        machine.announcer.clone(),
    );
    let end = End::default();
    let server = machine.take_control().map(|listener| {
        let control = Control::new(&machine.parts(), pace.clone(), end.clone());
        Rc::new(RefCell::new(Server::new(listener, control)))
    });
    let mut events = EventManager::new().map_err(Error::EventLoop)?;
    subscribe(&mut events, &machine, &end, &pace)?;
    let interactive = raw_mode.is_some();
    events.add_subscriber(Box::new(Signals::new(
        signals,
        machine.power_button.clone(),
        raw_mode.clone(),
        console
            .as_ref()
            .filter(|console| console.input.is_some())
            .map(|console| console.handle.clone()),
        end.clone(),
        pace.clone(),
    )));
    if let Some(source) = machine.take_input() {
        let port = machine.serial.clone();
        // A socket's client has no use for our commands.
        let interactive = interactive && matches!(source, Source::Stdin);
        events.add_subscriber(Box::new(Input::new(source, port, interactive, end.clone())));
    }
    if let Some(console) = console {
        attach(&mut events, console, interactive, &end);
    }
    if let Some(server) = &server {
        events.add_subscriber(Box::new(Rc::clone(server)));
    }
    machine.pci.start();
    pace.start()?;
    let outcome = loop {
        match main_loop(&mut events, &end)? {
            Finish::Outside(outcome) => break Ok(outcome),
            Finish::Reset => pace.halt()?,
            Finish::Vcpu => {}
        }
        // What a guest has come to in the meantime counts for more than a client's request.
        let by_guest = machine.ended.first().is_some();
        if by_guest {
            let outcome = outcome_of(&machine);
            let again = config.on_reboot == OnReboot::Reset;
            if !again || !matches!(outcome, Ok(Outcome::Reboot)) {
                break outcome;
            }
            pace.halt()?;
        }
        if let Err(error) = machine.restart(config) {
            break Err(error);
        }
        announce_reset(&machine.announcer, by_guest);
        pace.end_halt()?;
    };
    pace.end();
    if let Some(server) = &server {
        announce_end(&machine.announcer, &outcome);
        server.borrow_mut().tell();
    }
    // No vCPU writes to the terminal any more once it is given back.
    for vcpu in machine.vcpus.iter() {
        vcpu.stop()?;
    }
    // With what is still being removed.
    drop(events);
    machine.pci.stop();
    let closed = machine.disks.close();
    // Its clients see the end now that all is durable.
    drop(server);
    drop(pace);
    drop(machine);
    drop(raw_mode);
    closed.and(outcome)
}

type Loop = EventManager<Box<dyn MutEventSubscriber>>;

/// Adds what every machine has to the main loop.
fn subscribe(events: &mut Loop, machine: &Machine, end: &End, pace: &Pace) -> Result<(), Error> {
    events.add_subscriber(Box::new(EndedWatch::new(
        machine.ended.clone(),
        end.clone(),
    )));
    let stopped = machine.disks.stopped();
    events.add_subscriber(Box::new(DiskWatch::new(stopped, pace.clone())?));
    let (pci, disks, nets) = (&machine.pci, &machine.disks, &machine.nets);
    if let Some(watch) = HotPlugWatch::new(pci, disks, nets, &machine.announcer)? {
        events.add_subscriber(Box::new(watch));
    }
    Ok(())
}

/// Lets the virtio console's hosts be heard.
fn attach(events: &mut Loop, console: VirtioConsole, interactive: bool, end: &End) {
    if let Some(input) = console.input {
        let input = Input::new(Source::Stdin, Arc::new(input), interactive, end.clone());
        events.add_subscriber(Box::new(input));
    }
    let clients = Clients::new(console.handle, console.listeners);
    events.add_subscriber(Box::new(clients));
}

fn main_loop(events: &mut Loop, end: &End) -> Result<Finish, Error> {
    let mut timeout = SETTLED_MS;
    loop {
        events.run_with_timeout(timeout).map_err(Error::EventLoop)?;
        if timeout != FOREVER {
            sys::drop_startup_memory();
            timeout = FOREVER;
        }
        if let Some(finish) = end.0.take() {
            return Ok(finish);
        }
    }
}

/// Tells the clients of the control socket how the machine ended (QMP's `ShutdownCause`).
fn announce_end(announcer: &Announcer, outcome: &Result<Outcome, Error>) {
    let (guest, reason) = match outcome {
        Ok(Outcome::PowerOff) => (true, "guest-shutdown"),
        Ok(Outcome::Reboot) => (true, "guest-reset"),
        Ok(Outcome::GuestPanic) => (true, "guest-panic"),
        Ok(Outcome::Left) => (false, "host-ui"),
        Ok(Outcome::Quit) => (false, "host-qmp-quit"),
        Ok(Outcome::Terminated) => (false, "host-signal"),
        Err(_) => (false, "host-error"),
    };
    if reason == "guest-panic" {
        announcer.announce("GUEST_PANICKED", || json!({ "action": "poweroff" }));
    }
    announcer.announce("SHUTDOWN", || json!({ "guest": guest, "reason": reason }));
}

/// Tells the clients of the control socket that the machine starts again (QMP's `RESET`).
fn announce_reset(announcer: &Announcer, guest: bool) {
    let reason = if guest {
        "guest-reset"
    } else {
        "host-qmp-system-reset"
    };
    announcer.announce("RESET", || json!({ "guest": guest, "reason": reason }));
}

/// What the first vCPU to end makes of the whole machine.
fn outcome_of(machine: &Machine) -> Result<Outcome, Error> {
    let Some((vcpu, reason)) = machine.ended.first() else {
        return Ok(Outcome::Terminated);
    };
    match reason {
        ExitReason::Shutdown if machine.power.panicked() => Ok(Outcome::GuestPanic),
        ExitReason::Shutdown => Ok(Outcome::PowerOff),
        ExitReason::Reset => {
            let vcpu = machine.vcpus.iter().find(|thread| thread.index() == vcpu);
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
