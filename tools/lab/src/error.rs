//! What can go wrong, and what to do then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of the lab's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Programs are missing on this host.
    #[error(
        "the lab needs the packages {packages}: `cargo lab build --install` installs them, and \
         removes none"
    )]
    MissingPackages {
        /// Names of Debian packages, with spaces between.
        packages: String,
    },
    /// Installing would remove packages, from every suite that was tried.
    #[error("cannot install {packages} without removing {removed}: install them by hand")]
    WouldRemove {
        /// What was to be installed.
        packages: String,
        /// What would go.
        removed: String,
    },
    /// A program of the host failed.
    #[error("{command} failed: {output}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// The last lines of what it said.
        output: String,
    },
    /// No package gives the kernel that was asked for.
    #[error("no package of the configured archives gives Linux {series} (looked for {meta})")]
    NoKernel {
        /// For instance "6.12".
        series: String,
        /// The meta package.
        meta: String,
    },
    /// A file is not the kernel image that it should be.
    #[error("{path} is no bzImage with a payload that the lab can unpack: {reason}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// QEMU, or the machine in it, ended or does not answer.
    #[error("level 1 {state}; its last words: {console}")]
    Level1 {
        /// What has become of it.
        state: &'static str,
        /// The end of its console and of QEMU's messages.
        console: String,
    },
    /// QEMU refused a command of its control protocol.
    #[error("QEMU refused {command}: {reply}")]
    Qmp {
        /// The command.
        command: &'static str,
        /// Its answer.
        reply: String,
    },
    /// A command in level 1 did not end in time.
    #[error("{command:?} did not end within {} s; output so far: {output}", limit.as_secs())]
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of its output.
        output: String,
    },
    /// A command in level 1 failed where it must not.
    #[error("{command:?} ended with code {code} in level 1: {output}")]
    Failed {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// The end of its output.
        output: String,
    },
    /// The measured guest did not get as far as its init.
    #[error("the guest did not print its marker ({status}); console: {console}; stderr: {stderr}")]
    NoMarker {
        /// How the monitor ended.
        status: String,
        /// The end of the guest's console.
        console: String,
        /// The end of the monitor's messages.
        stderr: String,
    },
    /// The probe's report lacks something.
    #[error("the probe's report has no {what}")]
    Report {
        /// What was looked for.
        what: String,
    },
    /// An argument has a placeholder that the lab does not know.
    #[error("unknown placeholder {{{name}}}; there are {known}")]
    Placeholder {
        /// What stands between the braces.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Another value that was asked for does not make sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// For `map_err`: a failed file operation.
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

/// The last `limit` bytes of a text, from the start of a line where one is found.
pub(crate) fn tail(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(limit)..]);
    let from = if bytes.len() > limit {
        text.find('\n').map_or(0, |n| n + 1)
    } else {
        0
    };
    text[from..].trim().to_string()
}
