//! `lab exec`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use strata_lab::{Error, Event, Lab, Machine, Process, Result};

use super::{Level1, progress, strata_upload, upload};

/// Run a command in level 1
///
/// Its input, output and exit code are the command's own. It runs in /root; the workspace's release
/// build of strata is on the path; kernels and initramfs for guests are below /lab.
///
/// Examples:
///   lab exec -- uname -a
///   lab exec --in disk.img --out result.json -- sh -c 'strata run ... > result.json'
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Exec {
    /// Bring a file: FILE or FILE:DEST, with DEST below /root or absolute
    #[arg(long = "in", value_name = "FILE[:DEST]")]
    bring: Vec<String>,
    /// Fetch a file afterwards: PATH or PATH:FILE, with PATH in /root or absolute, FILE on the host
    #[arg(long = "out", value_name = "PATH[:FILE]")]
    fetch: Vec<String>,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    #[command(flatten)]
    level1: Level1,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut files = strata_upload()?;
        for file in &self.bring {
            files.push(upload(file)?);
        }
        let machine = Lab::open(progress)?.restore(&self.level1.config())?;
        machine.put(&files)?;
        let argv: Vec<_> = self.command.iter().map(String::as_str).collect();
        let process = machine.spawn(&argv, None)?;
        forward_input(&process);
        let limit = Duration::from_secs(self.timeout);
        let code = relay(process, limit)?.ok_or_else(|| {
            let (command, output) = (self.command.join(" "), "above".into());
            Error::Timeout {
                command,
                limit,
                output,
            }
        })?;
        for file in &self.fetch {
            fetch(&machine, file)?;
        }
        Ok(code)
    }
}

/// Passes output on until the program ends; `None` if it does not end in time.
pub(super) fn relay(mut process: Process, limit: Duration) -> Result<Option<ExitCode>> {
    let deadline = Instant::now() + limit;
    while let Some(event) = process.next(deadline)? {
        let write = |out: &mut dyn Write, bytes: &[u8]| {
            out.write_all(bytes)
                .and_then(|()| out.flush())
                .map_err(|source| Error::File {
                    action: "write",
                    path: PathBuf::from("the output"),
                    source,
                })
        };
        match event {
            Event::Stdout(bytes) => write(&mut std::io::stdout(), &bytes)?,
            Event::Stderr(bytes) => write(&mut std::io::stderr(), &bytes)?,
            Event::Exit(code) => {
                return Ok(Some(
                    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
                ));
            }
        }
    }
    Ok(None)
}

/// Passes the host's standard input on, up to its end.
pub(super) fn forward_input(process: &Process) {
    let write = process.input();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // No bytes, at the end or after an error, close the program's input.
        loop {
            let count = std::io::stdin().read(&mut buffer).unwrap_or(0);
            if write(&buffer[..count]).is_err() || count == 0 {
                return;
            }
        }
    });
}

fn fetch(machine: &Machine, text: &str) -> Result<()> {
    let (path, file) = text.split_once(':').unwrap_or((text, ""));
    let name = path.rsplit('/').next().unwrap_or(path);
    let file = if file.is_empty() { name } else { file };
    // A relative path starts where commands run.
    let contents = machine.get(path)?;
    std::fs::write(file, contents).map_err(|source| Error::File {
        action: "write",
        path: file.into(),
        source,
    })
}
