//! Names of network interfaces and hardware addresses.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use crate::Error;

/// The longest interface name in bytes: `IFNAMSIZ` without its terminating zero.
pub const MAX_NAME_LEN: usize = 15;

/// The name of a network interface, as Linux takes it: 1 to [`MAX_NAME_LEN`] bytes, none of them a
/// space, a control character, `/` or `:`, and no `%`, which the kernel takes for a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidName`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::InvalidName {
            name: text.chars().take(64).collect(),
            reason,
        };
        let forbidden =
            |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%' | '"' | '\'' | '\\');
        if text.is_empty() {
            Err(refuse("it is empty"))
        } else if text.len() > MAX_NAME_LEN {
            Err(refuse("it is longer than 15 characters"))
        } else if text == "." || text == ".." {
            Err(refuse("it is a directory's name"))
        } else if text.contains(forbidden) {
            Err(refuse(
                "it may hold only letters, digits and simple signs such as - _ .",
            ))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hardware address of six bytes that one interface can have: neither zero nor multicast.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// # Errors
    /// [`Error::InvalidMac`] where the address is zero, or its multicast bit (the lowest of the
    /// first byte) is set, which broadcast has too.
    pub fn new(bytes: [u8; 6]) -> Result<Self, Error> {
        let refuse = |reason| Error::InvalidMac {
            text: format!("{}", Self(bytes)),
            reason,
        };
        if bytes == [0; 6] {
            Err(refuse("it is zero"))
        } else if bytes[0] & 1 != 0 {
            Err(refuse("it is a multicast address"))
        } else {
            Ok(Self(bytes))
        }
    }

    /// A random address of the locally administered kind, with QEMU's and KVM's customary prefix
    /// 52:54:00.
    ///
    /// # Errors
    /// What reading `/dev/urandom` answered.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0x52, 0x54, 0, 0, 0, 0];
        File::open("/dev/urandom")?.read_exact(&mut bytes[3..])?;
        Ok(Self(bytes))
    }

    /// The bytes, in the order of transmission.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    /// Six pairs of hexadecimal digits with colons between.
    ///
    /// # Errors
    /// [`Error::InvalidMac`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::InvalidMac {
            text: text.chars().take(64).collect(),
            reason: "it is not six pairs of hexadecimal digits",
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(refuse)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() {
            return Err(refuse());
        }
        Self::new(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        for good in ["br0", "a", "exactly15chars_", "eth0.5", "tap-1"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "sixteen-letters-",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "tap%d",
            "ö",
            "a\0",
            "a\n",
        ] {
            let error = bad.parse::<InterfaceName>().unwrap_err();
            assert!(matches!(error, Error::InvalidName { .. }), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_those_of_one_interface() {
        let mac: MacAddr = "52:54:00:12:aB:ff".parse().unwrap();
        assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0x12, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:12:ab:ff");
        for bad in [
            "",
            "52:54:00:12:ab",
            "52:54:00:12:ab:ff:00",
            "52-54-00-12-ab-ff",
            "5:54:00:12:ab:ff",
            "+2:54:00:12:ab:ff",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(
                matches!(bad.parse::<MacAddr>(), Err(Error::InvalidMac { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn random_addresses_differ_and_are_local() {
        let (one, two) = (MacAddr::random().unwrap(), MacAddr::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.bytes()[0] & 3, 2);
    }
}
