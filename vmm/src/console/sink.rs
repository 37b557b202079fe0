//! Where a console's output goes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::SerialTarget;
use crate::error::Error;
use crate::sys;

/// Output of the serial port.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout(io::Stdout),
    /// Dropped.
    Null,
    /// A file, truncated when the machine starts.
    File(File),
    /// Whoever is connected to a unix socket; dropped while nobody is.
    Socket(Client),
}

/// The one client of a console socket, shared by the serial port and the event loop.
#[derive(Clone, Debug, Default)]
pub struct Client(Arc<Mutex<Option<Peer>>>);

/// Bytes that are kept for a client that does not read; what comes beyond is lost, as on a wire.
const BACKLOG: usize = 64 << 10;

/// A connected client, and what it has yet to be sent.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    backlog: VecDeque<u8>,
}

impl Peer {
    /// Sends what the socket takes: its own buffer charges each of the port's single bytes as a
    /// message, and is full after some hundred.
    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.write(self.backlog.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Client {
    /// Makes `stream` the client; the one before it, if any, is disconnected. Returns the
    /// descriptor to wait at for [`Client::flush`].
    ///
    /// # Errors
    /// When the stream can not be made non-blocking: a client that stops reading must not stop
    /// the vCPU that writes.
    pub fn connect(&self, stream: UnixStream) -> io::Result<RawFd> {
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        *self.lock() = Some(Peer {
            stream,
            backlog: VecDeque::new(),
        });
        Ok(fd)
    }

    /// Disconnects the client, if there is one.
    pub fn disconnect(&self) {
        *self.lock() = None;
    }

    /// Sends what has waited, now that the client reads again.
    pub fn flush(&self) {
        self.write(&[]);
    }

    fn write(&self, bytes: &[u8]) {
        let mut guard = self.lock();
        let Some(peer) = guard.as_mut() else { return };
        let room = BACKLOG - peer.backlog.len();
        peer.backlog.extend(bytes.iter().take(room));
        if peer.flush().is_err() {
            *guard = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Opens the sink of `target`. For a socket, the listener is returned beside it.
    ///
    /// # Errors
    /// [`Error::File`] when the file can not be created, or the socket's path is in use.
    pub fn open(target: &SerialTarget) -> Result<(Self, Option<Listener>), Error> {
        Ok(match target {
            SerialTarget::Stdio => (Self::Stdout(io::stdout()), None),
            SerialTarget::Null => (Self::Null, None),
            SerialTarget::File(path) => {
                let file = File::create(path).map_err(|source| Error::File {
                    what: "console output file",
                    path: path.clone(),
                    remedy: "name a file in a directory that exists and that you may write to",
                    source,
                })?;
                (Self::File(file), None)
            }
            SerialTarget::Unix(path) => {
                let client = Client::default();
                let listener = Listener::bind(path, "serial socket")?;
                (Self::Socket(client), Some(listener))
            }
        })
    }

    /// The socket's client slot, for the event loop; `None` for other sinks.
    pub fn client(&self) -> Option<Client> {
        match self {
            Self::Socket(client) => Some(client.clone()),
            _ => None,
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write_all(bytes)?,
            Self::Null => {}
            Self::File(file) => file.write_all(bytes)?,
            Self::Socket(client) => client.write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            // A console shows each byte as it comes; std buffers standard output by lines.
            Self::Stdout(out) => out.flush(),
            _ => Ok(()),
        }
    }
}

/// A listening socket, of a console or for control, whose path is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket at `path`, for its owner alone; `what` it is stands in messages. To be called
    /// while this process has one thread.
    ///
    /// # Errors
    /// [`Error::File`] when something is at `path`, but for a socket that nobody listens on.
    pub fn bind(path: &Path, what: &'static str) -> Result<Self, Error> {
        let fail = |remedy| {
            move |source| Error::File {
                what,
                path: path.to_owned(),
                remedy,
                source,
            }
        };
        // A socket that nobody listens on is left over from a process that was killed.
        let stale = path
            .symlink_metadata()
            .is_ok_and(|meta| meta.file_type().is_socket())
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if stale {
            std::fs::remove_file(path).map_err(fail("remove the left-over socket"))?;
        }
        let bound = sys::with_umask(0o177, || UnixListener::bind(path));
        let socket = bound.map_err(fail(
            "name a path that does not exist yet, in a directory that does",
        ))?;
        socket.set_nonblocking(true).map_err(fail("try again"))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Takes a waiting client; `None` when there is none (any more).
    pub fn accept(&self) -> Option<UnixStream> {
        self.socket.accept().ok().map(|(stream, _)| stream)
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_socket_serves_one_client_after_another_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut sink, listener) = Sink::open(&SerialTarget::Unix(path.clone())).unwrap();
        let listener = listener.unwrap();
        sink.write_all(b"nobody hears").unwrap();
        for _ in 0..2 {
            let mut peer = UnixStream::connect(&path).unwrap();
            sink.client()
                .unwrap()
                .connect(listener.accept().unwrap())
                .unwrap();
            sink.write_all(b"hello").unwrap();
            let mut heard = [0; 5];
            peer.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"hello");
        }
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_client_that_pauses_loses_nothing_and_one_that_never_reads_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut sink, listener) = Sink::open(&SerialTarget::Unix(path.clone())).unwrap();
        let mut peer = UnixStream::connect(&path).unwrap();
        let client = sink.client().unwrap();
        client.connect(listener.unwrap().accept().unwrap()).unwrap();
        let text: Vec<u8> = (0..20_000_u32).map(|i| i as u8).collect();
        for byte in &text {
            sink.write_all(std::slice::from_ref(byte)).unwrap();
        }
        let mut heard: Vec<u8> = Vec::new();
        peer.set_nonblocking(true).unwrap();
        while heard.len() < text.len() {
            let mut some = [0; 512];
            match peer.read(&mut some) {
                Ok(count) => heard.extend(&some[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            client.flush();
        }
        assert_eq!(heard, text);
        for _ in 0..10 * BACKLOG {
            sink.write_all(b"x").unwrap();
        }
    }

    #[test]
    fn a_left_over_socket_is_replaced_but_a_file_or_a_live_socket_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        drop(UnixListener::bind(&path).unwrap());
        let (_sink, live) = Sink::open(&SerialTarget::Unix(path.clone())).unwrap();
        assert!(Sink::open(&SerialTarget::Unix(path.clone())).is_err());
        drop(live);
        std::fs::write(&path, b"precious").unwrap();
        assert!(Sink::open(&SerialTarget::Unix(path.clone())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
