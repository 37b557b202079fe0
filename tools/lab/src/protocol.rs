//! The frames that the host and the level-1 agent exchange over a virtio-serial port.
//!
//! A frame is a kind (1 byte), a process number (4 bytes), a payload length (4 bytes) and the
//! payload; integers are little-endian. The host numbers the processes that it starts.

use std::io::{self, Read, Write};

/// The name of the virtio-serial port.
pub(crate) const PORT: &str = "strata.lab";

/// Longest payload, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the agent: start a program. The payload is a [`Spawn`].
    Spawn,
    /// To the agent: bytes for the program's standard input; no bytes close it.
    Stdin,
    /// To the agent: send the signal whose number is the payload's first byte to the process group.
    Signal,
    /// From the agent: bytes of standard output.
    Stdout,
    /// From the agent: bytes of standard error.
    Stderr,
    /// From the agent: the program ended. The payload is its exit code (4 bytes), 128 + n after
    /// signal n.
    Exit,
    /// From the agent, once and unasked: level 1 has come up.
    Ready,
}

const KINDS: [Kind; 7] = [
    Kind::Spawn,
    Kind::Stdin,
    Kind::Signal,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Exit,
    Kind::Ready,
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it carries.
    pub(crate) kind: Kind,
    /// The process that it is about.
    pub(crate) id: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A frame of `kind` about process `id`.
    pub(crate) fn new(kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            id,
            payload: payload.into(),
        }
    }

    /// Writes the frame in one piece, so that frames of several threads do not mix.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let len = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        bytes.push(self.kind as u8);
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(&self.payload);
        out.write_all(&bytes)
    }

    /// Reads one frame. `Ok(None)` says that the other end has closed the port.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if input.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut number = [0; 4];
        input.read_exact(&mut number)?;
        let id = u32::from_le_bytes(number);
        input.read_exact(&mut number)?;
        let len = usize::try_from(u32::from_le_bytes(number)).map_err(io::Error::other)?;
        let kind = KINDS.get(usize::from(kind[0]));
        let (Some(&kind), true) = (kind, len <= MAX_PAYLOAD) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a frame of the lab",
            ));
        };
        let mut payload = vec![0; len];
        input.read_exact(&mut payload)?;
        Ok(Some(Self { kind, id, payload }))
    }
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spawn {
    /// Rows and columns of the terminal to give it; none for pipes.
    pub(crate) terminal: Option<(u16, u16)>,
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
}

impl Spawn {
    /// The payload of a [`Kind::Spawn`] frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (rows, columns) = self.terminal.unwrap_or_default();
        let mut bytes = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
        bytes.extend(self.argv.join("\0").as_bytes());
        bytes
    }

    /// Reads the payload of a [`Kind::Spawn`] frame; `None` if it is too short or not UTF-8.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (size, argv) = payload.split_first_chunk::<4>()?;
        let [r0, r1, c0, c1] = *size;
        let size = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
        Some(Self {
            terminal: (size != (0, 0)).then_some(size),
            argv: std::str::from_utf8(argv)
                .ok()?
                .split('\0')
                .map(String::from)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            Frame::new(Kind::Spawn, 7, *b"\0\0\0\0true"),
            Frame::new(Kind::Stdin, u32::MAX, []),
            Frame::new(Kind::Stdout, 0, vec![0xff; MAX_PAYLOAD]),
            Frame::new(Kind::Ready, 1, *b"x"),
        ];
        let mut wire = Vec::new();
        frames.iter().for_each(|f| f.write(&mut wire).unwrap());
        let mut wire = wire.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut wire).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut wire).unwrap(), None);
    }

    #[test]
    fn every_kind_has_its_own_number() {
        for (number, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn garbage_is_refused() {
        let long = [
            &[3, 0, 0, 0, 0][..],
            &(MAX_PAYLOAD as u32 + 1).to_le_bytes(),
        ]
        .concat();
        for bytes in [&long[..], &[9; 16], &[0, 0]] {
            assert!(Frame::read(&mut &bytes[..]).is_err());
        }
    }

    #[test]
    fn spawns_survive_the_wire() {
        for terminal in [None, Some((24, 80))] {
            let spawn = Spawn {
                terminal,
                argv: vec!["sh".into(), "-c".into(), "".into()],
            };
            assert_eq!(Spawn::decode(&spawn.encode()), Some(spawn));
        }
        assert_eq!(Spawn::decode(b"abc"), None);
        assert_eq!(Spawn::decode(b"\0\0\0\0\xff"), None);
    }
}
