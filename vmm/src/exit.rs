//! How a run ends, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// Why a machine stopped. Every variant has an exit code of its own, so that scripts can tell
/// a guest that shut down from one that crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reboot,
    /// The guest's kernel panicked, or its CPU triple-faulted.
    GuestPanic,
    /// The person at the console left it with Ctrl-A X.
    Left,
    /// A client of the control socket said `quit`.
    Quit,
    /// A second SIGTERM (or SIGINT), or SIGHUP, ended the machine.
    Terminated,
}

impl Outcome {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::PowerOff | Self::Left | Self::Quit => 0,
            Self::Reboot => 3,
            Self::GuestPanic => 4,
            // 128 + SIGTERM, what a shell reports for a process that the signal ended.
            Self::Terminated => 143,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reboot => "the guest asked for a reboot",
            Self::GuestPanic => "the guest panicked",
            Self::Left => "left by Ctrl-A X",
            Self::Quit => "ended by the command quit",
            Self::Terminated => "ended by a signal",
        })
    }
}

/// Exit code when the monitor itself failed.
pub const FAILURE: u8 = 1;

/// Exit code when the command line, a file it names, or the host can not do what was asked.
pub const BAD_INPUT: u8 = 2;
