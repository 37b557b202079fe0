//! `unix-pipe PATH`: connects to a unix socket and passes standard input and output through, as
//! the lab's level 1 has no program that does.

use std::io::{self, Error, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::{env, thread};

fn main() -> io::Result<()> {
    let path = env::args_os()
        .nth(1)
        .ok_or_else(|| Error::other("usage: unix-pipe PATH"))?;
    let socket = UnixStream::connect(path)?;
    let sender = socket.try_clone()?;
    thread::spawn(move || {
        pass(io::stdin(), &sender)?;
        sender.shutdown(Shutdown::Write)
    });
    pass(&socket, io::stdout())
}

/// Passes each piece on as it comes; `io::copy` would wait for the end of a line.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}
