//! One client's stream.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use crate::commands::Commands;
use crate::session::{self, Session};

/// Bytes that wait for a client at most. A client that lets more come together is dropped.
pub const MAX_QUEUE: usize = 1 << 20;

/// While so many bytes wait for a client its commands wait, too: only events can fill the queue.
const BUSY_QUEUE: usize = 64 << 10;

/// One read's worth.
const CHUNK: usize = 4096;

/// Reads of one call: a client that never stops sending must not keep the others waiting.
const READS: usize = 16;

/// A connected client. Its stream does not block.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    session: Session,
    /// Read, but not yet looked at, since the answers before wait to be sent.
    input: VecDeque<u8>,
    output: VecDeque<u8>,
    /// Nothing more comes from the client.
    ended: bool,
}

/// What an event loop should wait for, by level, before it calls [`Client::serve`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// That there is something to read.
    pub read: bool,
    /// That there is room to write.
    pub write: bool,
}

/// Why a client is no more. Its stream is to be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Gone {
    /// It has closed its stream.
    #[error("it has left")]
    Left,
    /// It did not read what it was sent.
    #[error("it reads nothing, and {MAX_QUEUE} bytes wait for it")]
    DoesNotRead,
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
}

impl<S: Read + Write> Client<S> {
    /// A client that has just connected by `stream`, and is to be greeted:
    /// [`serve`](Self::serve) does.
    pub fn new<H>(stream: S, commands: &Commands<H>) -> Self {
        Self {
            stream,
            session: Session::new(),
            input: VecDeque::new(),
            output: session::greeting(commands).into(),
            ended: false,
        }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Sends and reads what the stream takes and has, up to a bound, and runs the commands that
    /// come.
    ///
    /// # Errors
    /// [`Gone`]: the client is to be thrown away.
    pub fn serve<H>(&mut self, commands: &Commands<H>, handler: &mut H) -> Result<Wants, Gone> {
        self.flush()?;
        for _ in 0..READS {
            self.run(commands, handler)?;
            if self.is_busy() || self.ended || !self.read()? {
                break;
            }
        }
        self.run(commands, handler)?;
        if self.ended && self.input.is_empty() && self.output.is_empty() {
            return Err(Gone::Left);
        }
        Ok(self.wants())
    }

    /// Queues a line for the client, as [`Event::line`](crate::Event::line) makes it, and sends
    /// what the stream takes. A client that has not negotiated yet does not get it.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn tell(&mut self, line: &[u8]) -> Result<Wants, Gone> {
        if self.session.has_negotiated() {
            if self.output.len() + line.len() > MAX_QUEUE {
                return Err(Gone::DoesNotRead);
            }
            self.output.extend(line);
            self.flush()?;
        }
        Ok(self.wants())
    }

    fn wants(&self) -> Wants {
        Wants {
            read: !self.ended && !self.is_busy(),
            write: !self.output.is_empty(),
        }
    }

    fn is_busy(&self) -> bool {
        self.output.len() > BUSY_QUEUE
    }

    /// Looks at what was read, as long as the answers find room: to its end, or until the client is
    /// busy reading them, so that input never waits for an event that does not come.
    fn run<H>(&mut self, commands: &Commands<H>, handler: &mut H) -> Result<(), Gone> {
        loop {
            while !self.is_busy()
                && let Some(byte) = self.input.pop_front()
            {
                self.session.push(byte, commands, handler, &mut self.output);
            }
            self.flush()?;
            if self.is_busy() || self.input.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads once, and says whether something came.
    fn read(&mut self) -> Result<bool, Gone> {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => {
                self.ended = true;
                Ok(false)
            }
            Ok(count) => {
                self.input.extend(chunk.iter().take(count));
                Ok(true)
            }
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what the stream takes.
    fn flush(&mut self) -> Result<(), Gone> {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(0) => return Err(Gone::Left),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
