//! What is at the host's end of a port.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A non-blocking stream of bytes: a terminal, a pipe, a socket.
///
/// Reads and writes that would block fail with [`WouldBlock`](std::io::ErrorKind::WouldBlock). A read
/// of 0 bytes is the end: the port is then only written to.
pub trait Stream: Read + Write + AsRawFd + Send {}

impl Stream for File {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// A port of a console.
pub struct Port {
    /// What a guest finds it by (`/dev/virtio-ports/NAME`), at most 255 bytes; empty for a console,
    /// which becomes `hvc0` and so on.
    pub name: String,
    /// The host's end. Without one the port takes all and gives nothing.
    pub stream: Option<Box<dyn Stream>>,
}

impl Port {
    /// A console.
    pub fn console(stream: impl Stream + 'static) -> Self {
        Self::named("", stream)
    }

    /// A named port, for a program in the guest.
    pub fn named(name: &str, stream: impl Stream + 'static) -> Self {
        Self {
            name: name.to_owned(),
            stream: Some(Box::new(stream)),
        }
    }

    /// A named port, or a console where the name is empty, whose host's end
    /// [comes later](crate::ConsoleHandle::connect).
    pub fn unconnected(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            stream: None,
        }
    }
}
