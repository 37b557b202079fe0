//! A program that runs in level 1.

use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, tail};
use crate::port::Channel;
use crate::protocol::{Kind, MAX_PAYLOAD};

/// How much output an error quotes, in bytes.
const QUOTED: usize = 4000;

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 + n after signal n, 127 if it could not be started.
    pub code: i32,
    /// All that it wrote to standard output, or to its terminal.
    pub stdout: Vec<u8>,
    /// All that it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The output if the exit code is 0.
    ///
    /// # Errors
    /// [`Error::Failed`] names `command` otherwise.
    pub fn checked(self, command: &str) -> Result<Self> {
        if self.code == 0 {
            return Ok(self);
        }
        let output = tail(&[self.stdout.as_slice(), &self.stderr].concat(), QUOTED);
        Err(Error::Failed {
            command: command.to_string(),
            code: self.code,
            output,
        })
    }
}

/// One piece of news about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has written to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It has written to standard error.
    Stderr(Vec<u8>),
    /// It has ended with this exit code. Nothing comes after it.
    Exit(i32),
}

/// A program that runs in level 1. Dropping it leaves it running.
#[derive(Debug)]
pub struct Process {
    name: String,
    channel: Channel,
    console: Arc<Mutex<Vec<u8>>>,
    output: Output,
    ended: bool,
    /// How much of standard output `wait_for` has gone past.
    searched: usize,
}

impl Process {
    pub(crate) fn new(name: String, channel: Channel, console: Arc<Mutex<Vec<u8>>>) -> Self {
        let output = Output {
            code: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        Self {
            name,
            channel,
            console,
            output,
            ended: false,
            searched: 0,
        }
    }

    /// Writes to its standard input, or types on its terminal.
    ///
    /// # Errors
    /// [`Error::Level1`] if level 1 has ended.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        bytes
            .chunks(MAX_PAYLOAD)
            .try_for_each(|piece| self.channel.send(Kind::Stdin, piece))
            .map_err(|_| self.lost())
    }

    /// Closes its standard input.
    ///
    /// # Errors
    /// [`Error::Level1`] if level 1 has ended.
    pub fn close_input(&self) -> Result<()> {
        self.channel.send(Kind::Stdin, &[]).map_err(|_| self.lost())
    }

    /// A function for another thread that writes to standard input; no bytes close it.
    pub fn input(&self) -> impl Fn(&[u8]) -> io::Result<()> + Send + 'static {
        let send = self.channel.sender();
        move |bytes| send(Kind::Stdin, bytes)
    }

    /// Sends a signal to it and to what it has started.
    ///
    /// # Errors
    /// [`Error::Level1`] if level 1 has ended.
    pub fn signal(&self, number: u8) -> Result<()> {
        self.channel
            .send(Kind::Signal, &[number])
            .map_err(|_| self.lost())
    }

    /// The next piece of news, or `None` if none comes before `deadline`.
    ///
    /// # Errors
    /// [`Error::Level1`] if level 1 has ended.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Event>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let frame = match self.channel.frames.recv_timeout(left) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
        };
        Ok(Some(match frame.kind {
            Kind::Stdout => Event::Stdout(frame.payload),
            Kind::Stderr => Event::Stderr(frame.payload),
            _ => {
                self.ended = true;
                let code = frame
                    .payload
                    .first_chunk()
                    .map_or(127, |c| i32::from_le_bytes(*c));
                self.output.code = code;
                Event::Exit(code)
            }
        }))
    }

    /// Waits until `text` appears in standard output after what the last call found, and gives all
    /// output up to its end that no call has given.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not come within `limit`, [`Error::Failed`] if the program ends
    /// without it, [`Error::Level1`] if level 1 ends.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let fresh = &self.output.stdout[self.searched..];
            if let Some(at) = fresh.windows(text.len()).position(|w| w == text.as_bytes()) {
                let found = &fresh[..at + text.len()];
                let found_text = String::from_utf8_lossy(found).into_owned();
                self.searched += found.len();
                return Ok(found_text);
            }
            if self.ended {
                let Output { code, .. } = self.output;
                let (command, output) = (self.name.clone(), self.transcript());
                return Err(Error::Failed {
                    command,
                    code,
                    output,
                });
            }
            self.step(deadline, limit)?;
        }
    }

    /// Waits for its end, and gives all of its output.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not come within `limit` (the program is killed then),
    /// [`Error::Level1`] if level 1 ends.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        while !self.ended {
            if let Err(error) = self.step(deadline, limit) {
                // Level 1 may have ended, and the program with it.
                let _ = self.signal(9);
                return Err(error);
            }
        }
        Ok(self.output)
    }

    fn step(&mut self, deadline: Instant, limit: Duration) -> Result<()> {
        match self.next(deadline)? {
            Some(Event::Stdout(bytes)) => self.output.stdout.extend(bytes),
            Some(Event::Stderr(bytes)) => self.output.stderr.extend(bytes),
            Some(Event::Exit(_)) => {}
            None => {
                let (command, output) = (self.name.clone(), self.transcript());
                return Err(Error::Timeout {
                    command,
                    limit,
                    output,
                });
            }
        }
        Ok(())
    }

    fn transcript(&self) -> String {
        tail(
            &[self.output.stdout.as_slice(), &self.output.stderr].concat(),
            QUOTED,
        )
    }

    fn lost(&self) -> Error {
        let console = self
            .console
            .lock()
            .map_or_else(|_| String::new(), |c| tail(&c, QUOTED));
        Error::Level1 {
            state: "has ended",
            console,
        }
    }
}
