//! The virtio console: its ports connected as the configuration says.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use strata_console::{Console, ConsoleHandle, Port, Stream};

use super::Pci;
use crate::config::{ConsolePort, SerialTarget};
use crate::console::sink::{Listener, Sink};
use crate::error::Error;

/// The virtio console, from its owner's side.
pub struct VirtioConsole {
    /// Its size, and who is connected to its ports.
    pub handle: ConsoleHandle,
    /// Sockets at which clients of ports connect, each with its port's index.
    pub listeners: Vec<(usize, Listener)>,
    /// Where what is typed goes, if a port is on standard input and output.
    pub input: Option<UnixStream>,
}

impl VirtioConsole {
    /// Connects the ports and puts the console on the bus; `None` if it has no port.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Console`], [`Error::Host`], and as [`Pci::add`].
    pub fn create(configs: &[ConsolePort], pci: &Pci) -> Result<Option<Self>, Error> {
        if configs.is_empty() {
            return Ok(None);
        }
        let (mut listeners, mut input) = (Vec::new(), None);
        let mut ports = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let mut port = Port::unconnected(&config.name);
            match &config.target {
                SerialTarget::Null => {}
                SerialTarget::Unix(path) => {
                    listeners.push((index, Listener::bind(path, "console socket")?))
                }
                SerialTarget::Stdio => {
                    let (output, typed) = Output::open(&config.target)?;
                    port.stream = Some(Box::new(output));
                    input = Some(typed);
                }
                // Nothing is ever read from a file.
                SerialTarget::File(_) => {
                    port.stream = Some(Box::new(Output::open(&config.target)?.0));
                }
            }
            ports.push(port);
        }
        let console = Console::new(ports).map_err(Error::Console)?;
        let handle = console.handle();
        pci.add("console", Box::new(console))?;
        Ok(Some(Self {
            handle,
            listeners,
            input,
        }))
    }
}

/// A port's far end that takes output, with what is typed coming by a socket: standard input must
/// not be made non-blocking, since it is others' too.
struct Output {
    sink: Sink,
    typed: UnixStream,
}

impl Output {
    /// The far end, and where to write what is typed.
    fn open(target: &SerialTarget) -> Result<(Self, UnixStream), Error> {
        let (sink, _) = Sink::open(target)?;
        let pair = UnixStream::pair().and_then(|(typed, input)| {
            typed.set_nonblocking(true)?;
            input.set_nonblocking(true)?;
            Ok((typed, input))
        });
        let (typed, input) = pair.map_err(|source| Error::Host {
            what: "create a pair of sockets",
            source,
        })?;
        Ok((Self { sink, typed }, input))
    }
}

impl Read for Output {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.typed.read(bytes)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.sink.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl AsRawFd for Output {
    fn as_raw_fd(&self) -> RawFd {
        self.typed.as_raw_fd()
    }
}

impl Stream for Output {}
