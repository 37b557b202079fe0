//! Frames over a stream socket: how passt (and QEMU's `-netdev stream`) carry them, each after its
//! length in four bytes, big-endian.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use strata_virtio::IoVec;

use crate::sys::{self, FrameWriter, ReceiveList};
use crate::{Backend, Endpoint, HEADER_LEN, Offloads, Uplink};

/// Bytes of a frame's length.
const PREFIX: usize = 4;
/// The largest frame that is taken: the largest IP packet, Ethernet's header and a VLAN tag.
const MAX_FRAME: usize = 65_535 + 14 + 4;
/// Two frames of the largest kind.
const BUFFER: usize = 1 << 17;

/// A card's host end on a connected stream socket.
///
/// # Errors
/// What making the socket non-blocking answered.
pub fn stream_backend(socket: UnixStream) -> io::Result<Backend> {
    socket.set_nonblocking(true)?;
    Ok(Backend {
        endpoints: vec![Box::new(StreamEndpoint::new(socket))],
        uplink: Arc::new(StreamUplink),
        vhost: Vec::new(),
    })
}

/// A stream carries frames as they are on a wire: no offload is known.
struct StreamUplink;

impl Uplink for StreamUplink {
    fn known_offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        if offloads == Offloads::NONE {
            Ok(())
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn set_pairs(&self, _pairs: u16) -> io::Result<()> {
        Ok(())
    }
}

/// One copy is made in each direction where the stream needs it: of what is received, because
/// frames begin anywhere in it and one read brings many of them; of what is sent, only for the rest
/// of a frame that the socket took in part.
struct StreamEndpoint {
    socket: UnixStream,
    /// Bytes from `start` to `end` are received and not yet delivered. Made with the first frame.
    received: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame that was sent in part.
    unsent: Vec<u8>,
    writer: FrameWriter,
    /// Whether the far end broke the protocol or is gone.
    dead: bool,
}

impl StreamEndpoint {
    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            received: Vec::new(),
            start: 0,
            end: 0,
            unsent: Vec::new(),
            writer: FrameWriter::default(),
            dead: false,
        }
    }

    /// Where the next frame lies in the buffer, if it is there as a whole.
    fn next_frame(&self) -> io::Result<Option<std::ops::Range<usize>>> {
        let bytes = self.received.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the stream's far end sends a frame of {len} bytes"),
            ));
        }
        let start = self.start + PREFIX;
        Ok((rest.len() >= len).then(|| start..start + len))
    }

    /// Receives more bytes.
    fn fill(&mut self) -> io::Result<()> {
        if self.received.is_empty() {
            self.received = vec![0; BUFFER];
        }
        // What is left is less than one frame, and the buffer holds two.
        self.received.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.received.get_mut(self.end..).unwrap_or_default();
        match self.socket.read(room)? {
            0 => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the stream's far end is gone",
            )),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    fn receive_frame(&mut self, list: &mut ReceiveList) -> io::Result<usize> {
        loop {
            if let Some(frame) = self.next_frame()? {
                list.write(0, &[0; HEADER_LEN]);
                list.write(
                    HEADER_LEN,
                    self.received.get(frame.clone()).unwrap_or_default(),
                );
                self.start = frame.end;
                return Ok(HEADER_LEN + frame.len());
            }
            self.fill()?;
        }
    }
}

impl Endpoint for StreamEndpoint {
    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn receive(&mut self, list: &mut ReceiveList) -> io::Result<usize> {
        if self.dead {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let received = self.receive_frame(list);
        if let Err(error) = &received
            && error.kind() != io::ErrorKind::WouldBlock
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::warn!("no frames come any more: {error}");
            self.dead = true;
        }
        received
    }

    fn send(&mut self, frame: &[IoVec]) -> io::Result<()> {
        self.flush()?;
        let len = frame
            .iter()
            .map(IoVec::len)
            .sum::<usize>()
            .saturating_sub(HEADER_LEN);
        let prefix = match u32::try_from(len) {
            Ok(prefix) if len <= MAX_FRAME => prefix.to_be_bytes(),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let fd = self.socket.as_raw_fd();
        let sent = self.writer.write(fd, &prefix, frame, HEADER_LEN)?;
        if sent < PREFIX + len {
            self.unsent
                .extend_from_slice(prefix.get(sent..).unwrap_or_default());
            let from = HEADER_LEN + sent.saturating_sub(PREFIX);
            sys::gather(frame, from, &mut self.unsent);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let count = self.socket.write(&self.unsent)?;
            self.unsent.drain(..count);
        }
        Ok(())
    }
}
