//! Signals: the first SIGTERM or SIGINT presses the power button, the second ends the machine;
//! SIGCONT lets a paused machine go on; SIGWINCH says that the terminal has another size.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_console::ConsoleHandle;

use super::{End, Finish, Pace, watch};
use crate::console::terminal::RawMode;
use crate::devices::PowerButton;
use crate::error::{Chain, Error};
use crate::exit::Outcome;
use crate::sys;

/// Takes the process's signals as events of the main loop.
pub(super) struct Signals {
    fd: OwnedFd,
    button: Arc<PowerButton>,
    pressed: bool,
    raw_mode: Option<Rc<RawMode>>,
    /// The console that is on the terminal, and can be told its size.
    console: Option<ConsoleHandle>,
    end: End,
    pace: Pace,
}

impl Signals {
    /// Blocks the signals in this thread, and in those it starts from here on.
    pub(super) fn block() -> Result<OwnedFd, Error> {
        sys::signal_fd(&[
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGCONT,
            libc::SIGWINCH,
        ])
        .map_err(|source| Error::Host {
            what: "take signals",
            source,
        })
    }

    pub(super) fn new(
        fd: OwnedFd,
        button: Arc<PowerButton>,
        raw_mode: Option<Rc<RawMode>>,
        console: Option<ConsoleHandle>,
        end: End,
        pace: Pace,
    ) -> Self {
        Self {
            fd,
            button,
            pressed: false,
            raw_mode,
            console,
            end,
            pace,
        }
    }

    /// Tells the guest how large its console is.
    fn tell_size(&self) {
        if let (Some(console), Some((columns, rows))) = (&self.console, sys::terminal_size())
            && let Err(error) = console.resize(columns, rows)
        {
            log::warn!("the guest is not told its terminal's size: {error}");
        }
    }

    fn take(&mut self, signal: libc::c_int) {
        match signal {
            libc::SIGCONT => {
                if let Some(raw_mode) = &self.raw_mode {
                    raw_mode.reenter();
                }
                if let Err(error) = self.pace.resume() {
                    log::error!("the machine can not go on: {}", Chain(&error));
                }
            }
            libc::SIGWINCH => self.tell_size(),
            // The terminal is gone, and the person with it.
            libc::SIGHUP => self.end.set(Finish::Outside(Outcome::Terminated)),
            _ if self.pressed => self.end.set(Finish::Outside(Outcome::Terminated)),
            _ => {
                self.pressed = true;
                self.button.press();
                log::warn!(
                    "the power button is pressed; if the guest does not power off, \
                     send the signal again to end it"
                );
            }
        }
    }
}

impl MutEventSubscriber for Signals {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        while let Some(signal) = sys::next_signal(&self.fd) {
            self.take(signal);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.tell_size();
        watch(ops, Events::new_raw(self.fd.as_raw_fd(), EventSet::IN));
    }
}
