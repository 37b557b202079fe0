//! What a command says, and how it fails.
//!
//! Standard output is buffered as the C library does it (by line on a terminal, in blocks
//! otherwise) and flushed at the end, because scripts that merge both streams depend on errors
//! coming first.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

static PROGRAM: OnceLock<String> = OnceLock::new();
static COMMAND: OnceLock<&'static str> = OnceLock::new();
static OUTPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Bytes that a pipe's buffer holds before they are written.
const BLOCK: usize = 4096;

/// The name under which the program was started, without its directory.
pub fn program() -> &'static str {
    PROGRAM.get_or_init(|| {
        let argv0 = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&argv0)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| "strata-img".into())
    })
}

/// Says which of the program's commands runs, for hints.
pub fn enter(command: &'static str) {
    // A second one would be a command within a command, which there is not.
    let _ = COMMAND.set(command);
}

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    /// What to print, if it has not been printed yet.
    pub message: Option<String>,
    /// A line to print below the message.
    pub hint: Option<String>,
    /// The exit code.
    pub code: u8,
}

/// The result of everything that may end the program.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            hint: None,
            code: 1,
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        let command = COMMAND.get().map(|name| format!(" {name}"));
        let command = command.unwrap_or_default();
        let name = program();
        Self::new(message).hint(format!("Try '{name}{command} --help' for more information"))
    }

    /// A failure of which all is said.
    pub fn silent(code: u8) -> Self {
        Self {
            message: None,
            hint: None,
            code,
        }
    }

    /// Adds a line below the message.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `prefix` before the message.
    #[must_use]
    pub fn context(mut self, prefix: impl std::fmt::Display) -> Self {
        self.message = self.message.map(|message| format!("{prefix}{message}"));
        self
    }

    /// Chooses another exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints what is to be said and gives the exit code.
    pub fn report(&self) -> u8 {
        if let Some(message) = &self.message {
            error(message);
        }
        if let Some(hint) = &self.hint {
            write_error(format_args!("{hint}\n"));
        }
        self.code
    }
}

/// Ends the enclosing function with a [`Failure`] of this message.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::report::Failure::new(format!($($arg)*)))
    };
}

/// Prints to standard output.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => { $crate::report::print(format_args!($($arg)*)) };
}

/// Prints `message` on standard error behind the program's name.
pub fn error(message: impl std::fmt::Display) {
    write_error(format_args!("{}: {message}\n", program()));
}

/// Prints a warning on standard error.
pub fn warn(message: impl std::fmt::Display) {
    write_error(format_args!("{}: warning: {message}\n", program()));
}

/// Prints a line on standard error as it is.
pub fn note(message: impl std::fmt::Display) {
    write_error(format_args!("{message}\n"));
}

/// A closed standard error leaves nobody to tell.
fn write_error(text: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// Prints to standard output; see [`out!`].
pub fn print(text: std::fmt::Arguments<'_>) {
    let mut buffer = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = buffer.write_fmt(text);
    let whole = if io::stdout().is_terminal() {
        buffer
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1)
    } else {
        buffer.len() / BLOCK * BLOCK
    };
    if whole > 0 {
        let _ = io::stdout()
            .write_all(&buffer[..whole])
            .and_then(|()| io::stdout().flush());
        buffer.drain(..whole);
    }
}

/// Writes out what [`print()`] holds back.
pub fn flush() {
    let mut buffer = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = io::stdout()
        .write_all(&buffer)
        .and_then(|()| io::stdout().flush());
    buffer.clear();
}

/// The C library's text for an error number, as qemu's messages have it.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.rsplit_once(" (os error")
        .map_or(text.clone(), |(text, _)| text.to_owned())
}
