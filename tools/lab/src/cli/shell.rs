//! `lab shell`.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use strata_lab::{Error, Lab, Result};

use super::exec::{forward_input, relay};
use super::{Level1, progress, strata_upload, upload};

/// Get a shell in level 1
///
/// The workspace's release build of strata is on its path, and /lab holds kernels and initramfs
/// for guests: strata run --kernel /lab/6.1/bzImage --initrd /lab/initrd --serial stdio
///
/// `exit` or Ctrl-D leaves; nothing in level 1 outlives that.
#[derive(Args)]
pub(super) struct Shell {
    /// Bring a file: FILE or FILE:DEST, with DEST below /root or absolute
    #[arg(long = "in", value_name = "FILE[:DEST]")]
    bring: Vec<String>,
    #[command(flatten)]
    level1: Level1,
    /// A command to run on the terminal instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

impl Shell {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let Some(raw) = RawTerminal::enter() else {
            return Err(Error::Usage(
                "`lab shell` needs a terminal; `lab exec -- CMD` does without".into(),
            ));
        };
        let mut files = strata_upload()?;
        for file in &self.bring {
            files.push(upload(file)?);
        }
        let machine = Lab::open(progress)?.restore(&self.level1.config())?;
        machine.put(&files)?;
        let mut argv: Vec<_> = self.command.iter().map(String::as_str).collect();
        if argv.is_empty() {
            argv.push("sh");
        }
        let process = machine.spawn(&argv, Some(raw.size))?;
        raw.set_raw();
        forward_input(&process);
        // A shell has no time limit: a year is as good.
        let code = relay(process, Duration::from_secs(365 * 24 * 3600))?;
        Ok(code.unwrap_or(ExitCode::FAILURE))
    }
}

/// The host's terminal, given back as it was when this is dropped.
struct RawTerminal {
    saved: String,
    size: (u16, u16),
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let saved = stty(&["-g"])?;
        let size = stty(&["size"])?;
        let (rows, columns) = size.split_once(' ')?;
        Some(Self {
            saved,
            size: (rows.parse().ok()?, columns.parse().ok()?),
        })
    }

    fn set_raw(&self) {
        let _ = stty(&["raw", "-echo"]);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = stty(&[&self.saved]);
    }
}

/// Asks for or changes the settings of the terminal on standard input.
fn stty(args: &[&str]) -> Option<String> {
    let output = Command::new("stty")
        .args(args)
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}
