//! Raw mode of the terminal on standard input, undone on every way out of the process.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys;

static RAW: AtomicBool = AtomicBool::new(false);

/// Raw mode, for as long as this value lives.
///
/// It is undone when the value is dropped, when a thread panics, and when a fatal signal
/// (SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGQUIT) ends the process.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal on standard input into raw mode; `None` where there is no terminal.
    ///
    /// # Errors
    /// The error of `tcgetattr` or `tcsetattr`.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        sys::terminal_raw()?;
        RAW.store(true, Ordering::Relaxed);
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            default_hook(info);
        }));
        Ok(Some(Self(())))
    }

    /// Enters raw mode again after the process was stopped and continued: the shell has set the
    /// terminal to its own liking meanwhile.
    pub fn reenter(&self) {
        let _ = sys::terminal_raw();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if RAW.swap(false, Ordering::Relaxed) {
        sys::terminal_restore();
    }
}

/// What ends a line on standard error: in raw mode a line feed alone only goes down.
pub fn line_end() -> &'static str {
    if RAW.load(Ordering::Relaxed) {
        "\r\n"
    } else {
        "\n"
    }
}
