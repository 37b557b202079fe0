//! Power: what the guest has made of its machine, and the button outside it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use strata_interrupts::Interrupt;
use strata_legacy::Event;
use strata_vcpu::Action;

/// What devices ask of the machine, on behalf of the guest.
///
/// The vCPU that wrote to a device reads it right after the write, in the same thread; ordering
/// between threads does not matter.
#[derive(Debug, Default)]
pub struct Power {
    action: AtomicU8,
    panicked: AtomicBool,
}

const RESUME: u8 = 0;
const SHUTDOWN: u8 = 1;
const RESET: u8 = 2;

impl Power {
    /// Takes note of what a device said.
    pub(super) fn happened(&self, event: Event) {
        let action = match event {
            Event::PowerOff => SHUTDOWN,
            Event::Reset => RESET,
            Event::Panicked => {
                self.panicked.store(true, Ordering::Relaxed);
                SHUTDOWN
            }
            // The guest's crash kernel takes it from here.
            _ => RESUME,
        };
        self.action.fetch_max(action, Ordering::Relaxed);
    }

    /// What the vCPU that has just written to a device is to do.
    pub(super) fn action(&self) -> Action {
        match self.action.load(Ordering::Relaxed) {
            RESUME => Action::Resume,
            SHUTDOWN => Action::Shutdown,
            _ => Action::Reset,
        }
    }

    /// Forgets it all, for a machine that starts again.
    pub fn reset(&self) {
        self.action.store(RESUME, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
    }

    /// Whether the guest's kernel has said that it panicked.
    pub fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }
}

/// The power button, which the guest's kernel takes as its user's wish to shut down.
#[derive(Debug)]
pub struct PowerButton(Interrupt);

impl PowerButton {
    /// The button behind `interrupt`.
    pub(super) fn new(interrupt: Interrupt) -> Self {
        Self(interrupt)
    }

    /// Presses it.
    pub fn press(&self) {
        if let Err(error) = self.0.trigger() {
            log::warn!("the power button does not work: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_asks_is_what_its_vcpu_does() {
        for (event, action, panicked) in [
            (Event::PowerOff, Action::Shutdown, false),
            (Event::Reset, Action::Reset, false),
            (Event::Panicked, Action::Shutdown, true),
            (Event::CrashLoaded, Action::Resume, false),
        ] {
            let power = Power::default();
            assert_eq!(power.action(), Action::Resume);
            power.happened(event);
            assert_eq!(
                (power.action(), power.panicked()),
                (action, panicked),
                "{event:?}"
            );
        }
    }
}
