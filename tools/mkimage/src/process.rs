//! Running the programs that do the work, so that a signal ends them and leaves nothing behind.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// How long a program may take to clean up after it was interrupted.
const GRACE: Duration = Duration::from_secs(15);

/// How often a signal is looked for while a program is silent.
const TICK: Duration = Duration::from_millis(50);

/// How many of a failed program's last lines an error quotes.
const QUOTED: usize = 12;

/// Starts programs, tells of progress, and knows whether a signal asked for the end.
#[derive(Debug, Clone)]
pub struct Runner {
    interrupted: Arc<AtomicBool>,
    progress: fn(&str),
    verbose: bool,
}

impl Runner {
    /// `progress` hears of every step; if `verbose`, of each line that a program prints.
    pub fn new(progress: fn(&str), verbose: bool) -> Self {
        Self {
            interrupted: Arc::default(),
            progress,
            verbose,
        }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP let the work end with [`Error::Interrupted`], after
    /// it has removed its files, instead of ending the process.
    ///
    /// # Errors
    /// [`Error::File`] if the handlers can not be set.
    pub fn catch_signals(&self) -> Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&self.interrupted))
                .map_err(Error::file("catch signals for", "this process"))?;
        }
        Ok(())
    }

    /// Tells of a step.
    pub(crate) fn say(&self, step: &str) {
        (self.progress)(step);
    }

    /// Fails if a signal asked for the end.
    pub(crate) fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Runs a program that writes below `place`. `line` hears each line of its messages.
    pub(crate) fn run(
        &self,
        command: &mut Command,
        place: &Path,
        mut line: impl FnMut(&str),
    ) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.check()?;
        // In a group of its own, so that Ctrl-C reaches it through us alone, with all its children.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::file("start", &program))?;
        let lines = lines(&mut child);
        let mut last = VecDeque::new();
        loop {
            match lines.recv_timeout(TICK) {
                Ok(text) => {
                    if self.verbose {
                        self.say(&text);
                    }
                    line(&text);
                    last.push_back(text);
                    if last.len() > QUOTED {
                        last.pop_front();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.check().is_err() {
                end(&mut child, &lines);
                return Err(Error::Interrupted);
            }
        }
        let status = child.wait().map_err(Error::file("wait for", &program))?;
        self.check()?;
        if status.success() {
            return Ok(());
        }
        let output = Vec::from(last).join("\n");
        if output.contains("No space left on device") {
            return Err(Error::NoSpace {
                path: place.to_path_buf(),
            });
        }
        Err(Error::Program { program, output })
    }
}

/// The lines of a program's messages; the channel closes when it and its children have ended.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stderr) = child.stderr.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if sender.send(text).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
    }
    receiver
}

/// Ends a program, which may clean up first, and then what is left of its children.
fn end(child: &mut Child, lines: &Receiver<String>) {
    let group = Pid::from_child(child);
    let deadline = Instant::now() + GRACE;
    // An error means that they have ended already.
    let _ = kill_process_group(group, Signal::INT);
    while Instant::now() < deadline && !matches!(child.try_wait(), Ok(Some(_))) {
        // Lines must be taken, or a program that says much would wait for us.
        let _ = lines.recv_timeout(TICK);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failures_quote_the_last_lines() {
        let runner = Runner::new(|_| {}, false);
        let mut heard = 0;
        let error = runner
            .run(
                &mut shell("seq 100 >&2; echo bad >&2; exit 3"),
                Path::new("/x"),
                |_| heard += 1,
            )
            .unwrap_err();
        assert_eq!(heard, 101);
        let text = error.to_string();
        assert!(
            text.starts_with("sh failed: 90\n") && text.ends_with("\nbad"),
            "{text}"
        );
    }

    #[test]
    fn a_full_disk_is_named() {
        let runner = Runner::new(|_| {}, false);
        let mut tar = shell("echo 'tar: write error: No space left on device' >&2; exit 2");
        let error = runner.run(&mut tar, Path::new("/some/where"), |_| {});
        assert!(matches!(error, Err(Error::NoSpace { path }) if path == Path::new("/some/where")));
    }

    #[test]
    fn a_signal_ends_the_program_and_its_children() {
        let runner = Runner::new(|_| {}, false);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cleaned");
        let script = format!(
            "trap 'touch {}; exit 1' INT; echo up >&2; sleep 1000 & wait",
            file.display()
        );
        let flag = Arc::clone(&runner.interrupted);
        let begun = Instant::now();
        let ended = runner.run(&mut shell(&script), dir.path(), |_| {
            flag.store(true, Ordering::Relaxed);
        });
        assert!(matches!(ended, Err(Error::Interrupted)));
        assert!(file.exists());
        assert!(begun.elapsed() < GRACE);
        // Nothing is started any more.
        let mut more = shell("exit 0");
        assert!(matches!(
            runner.run(&mut more, dir.path(), |_| {}),
            Err(Error::Interrupted)
        ));
    }
}
