//! Messages: a header of 16 bytes and a payload, several in a datagram (netlink(7)).

use std::io;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// What messages begin on a multiple of.
const ALIGN: usize = 4;

/// A message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of a datagram, and what is behind it: always less than there was.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when its length can not be.
    pub(crate) fn split(bytes: &'a [u8]) -> io::Result<(Self, &'a [u8])> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let (header, _) = bytes.split_first_chunk::<HEADER>().ok_or_else(malformed)?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = bytes.get(HEADER..len).ok_or_else(malformed)?;
        let message = Self {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        };
        let rest = bytes.get(len.next_multiple_of(ALIGN)..);
        Ok((message, rest.unwrap_or_default()))
    }

    /// As it is sent. The payload is a few hundred bytes: of an object that the kernel described in
    /// one datagram, or made here.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = (HEADER + self.payload.len()) as u32;
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        // The sender's port: the kernel fills it in.
        bytes.extend([0; 4]);
        bytes.extend(self.payload);
        bytes
    }
}

/// The error number of an `NLMSG_ERROR`'s payload: 0 for an acknowledgement.
///
/// # Errors
/// What it tells, or [`io::ErrorKind::InvalidData`].
pub(crate) fn acknowledged(payload: &[u8]) -> io::Result<()> {
    let number = payload
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes));
    match number {
        Some(0) => Ok(()),
        // Errors are negative; a positive number is none that the kernel sends.
        Some(number @ i32::MIN..0) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart() {
        let message = |kind, payload| Message {
            kind,
            flags: 2,
            sequence: 77,
            payload,
        };
        let (first, second) = (message(16, &b"12345"[..]), message(20, b""));
        let mut bytes = first.encode();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(second.encode());
        let (parsed, rest) = Message::split(&bytes).unwrap();
        assert_eq!(parsed, first);
        let (parsed, rest) = Message::split(rest).unwrap();
        assert_eq!(parsed, second);
        assert!(rest.is_empty());
    }

    #[test]
    fn lengths_that_can_not_be_are_refused() {
        let good = Message {
            kind: 16,
            flags: 0,
            sequence: 1,
            payload: &[0; 16],
        }
        .encode();
        for len in [0_u32, 15, 33, u32::MAX] {
            let mut bytes = good.clone();
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            assert!(Message::split(&bytes).is_err(), "{len}");
        }
        assert!(Message::split(&good[..15]).is_err());
    }

    #[test]
    fn errors_are_negative() {
        assert!(acknowledged(&[0; 4]).is_ok());
        let denied = acknowledged(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&i32::MIN.to_ne_bytes()).is_err());
        assert!(acknowledged(&1_i32.to_ne_bytes()).is_err());
        assert!(acknowledged(&[0; 3]).is_err());
    }
}
