//! Attributes: length, type and value, each on a multiple of four bytes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

/// `struct rtattr`: two numbers of 16 bits.
const HEADER: usize = 4;
/// The bits of a type that are no flags (`NLA_TYPE_MASK` of linux/netlink.h).
const TYPE_MASK: u16 = 0x3fff;
/// The longest value that has room behind its header.
const MAX_VALUE: usize = u16::MAX as usize - HEADER;

/// The attributes of a message, or of an attribute that nests others: as they are on the wire, every
/// length checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Takes attributes from a message.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when one claims to be shorter than its header or longer than
    /// what there is.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut rest = bytes;
        // Fewer bytes than a header are padding.
        while rest.len() >= HEADER {
            (_, _, rest) = split(rest).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The type of each, flags included, and its value.
    fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (kind, value, next) = split(rest)?;
            rest = next;
            Some((kind, value))
        })
    }

    /// The value of the first one of a type.
    pub(crate) fn get(&self, kind: u16) -> Option<&[u8]> {
        let mut all = self.iter();
        all.find_map(|(found, value)| (found & TYPE_MASK == kind).then_some(value))
    }

    pub(crate) fn u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.get(kind)?.first_chunk()?))
    }

    /// A string of the kernel's, without the zero that ends it.
    pub(crate) fn string(&self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|&byte| byte == 0);
        let text = value.get(..end.unwrap_or(value.len()))?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    pub(crate) fn ip(&self, kind: u16) -> Option<IpAddr> {
        ip(self.get(kind)?)
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Self> {
        Self::parse(self.get(kind)?).ok()
    }

    /// Those of the types that `keep` names, as they are.
    pub(crate) fn only(&self, keep: &[u16]) -> Self {
        let mut kept = Self::default();
        for (kind, value) in self.iter() {
            if keep.contains(&(kind & TYPE_MASK)) {
                kept.push(kind, value);
            }
        }
        kept
    }

    /// Appends one. Its value is a few bytes, or what an attribute held before: it is never cut.
    pub(crate) fn push(&mut self, kind: u16, value: &[u8]) {
        let value = value.get(..MAX_VALUE).unwrap_or(value);
        let len = (HEADER + value.len()) as u16;
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
    }

    pub(crate) fn push_u32(&mut self, kind: u16, value: u32) {
        self.push(kind, &value.to_ne_bytes());
    }

    /// As on the wire.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The first attribute's type and value, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([l0, l1, k0, k1], _) = bytes.split_first_chunk::<HEADER>()?;
    let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
    let value = bytes.get(HEADER..len)?;
    let rest = bytes.get(len.next_multiple_of(HEADER)..);
    Some((
        u16::from_ne_bytes([*k0, *k1]),
        value,
        rest.unwrap_or_default(),
    ))
}

/// An address of either family, told by its length.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_found() {
        let mut all = Attributes::default();
        all.push(3, b"br0\0");
        all.push(1, &[1, 2, 3, 4, 5, 6]);
        all.push_u32(4, 1500);
        let parsed = Attributes::parse(all.bytes()).unwrap();
        assert_eq!(parsed, all);
        assert_eq!(parsed.string(3).unwrap(), "br0");
        assert_eq!(parsed.get(1).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(parsed.u32(4), Some(1500));
        assert_eq!(parsed.u32(3 | 0x4000), None);
        assert_eq!(
            parsed.only(&[4, 9]).bytes(),
            &all.bytes()[all.bytes().len() - 8..]
        );
    }

    #[test]
    fn flags_of_a_type_do_not_hide_it_and_are_kept() {
        let mut inner = Attributes::default();
        inner.push(1, b"bridge");
        let mut all = Attributes::default();
        all.push(18 | 0x8000, inner.bytes());
        assert_eq!(all.nested(18).unwrap().string(1).unwrap(), "bridge");
        assert_eq!(all.only(&[18]), all);
    }

    #[test]
    fn lengths_that_can_not_be_are_refused() {
        for bytes in [
            &[0, 0, 1, 0][..],
            &[3, 0, 1, 0],
            &[9, 0, 1, 0, 1, 2, 3, 4],
            &[4, 0, 1, 0, 0xff, 0xff, 1, 0],
        ] {
            assert!(Attributes::parse(bytes).is_err(), "{bytes:?}");
        }
        // Its padding may be missing, and too little for another is no other.
        assert!(Attributes::parse(&[5, 0, 1, 0, 7]).is_ok());
        assert!(Attributes::parse(&[4, 0, 1, 0, 1, 2]).is_ok());
    }
}
