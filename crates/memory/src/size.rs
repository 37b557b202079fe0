use std::fmt;
use std::str::FromStr;

use crate::Error;

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A number of bytes, as people write it: `4096`, `256M`, `1G`, `512MiB`, `512 MiB`.
///
/// Units are powers of 1024 in either case. `MB` and the like are refused: some mean powers of
/// 1000 by them.
///
/// ```
/// use strata_memory::MemorySize;
///
/// let size: MemorySize = "1536M".parse()?;
/// assert_eq!(size.bytes(), 1536 << 20);
/// assert_eq!(MemorySize::new(2 << 30).to_string(), "2GiB");
/// # Ok::<(), strata_memory::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize(u64);

impl MemorySize {
    /// A size of `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = Error;

    /// # Errors
    /// [`Error::ParseSize`] for anything but digits with an optional unit, and for 2^64 and more.
    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |reason| Error::ParseSize {
            text: text.chars().take(64).collect(),
            reason,
        };
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        if digits.is_empty() {
            return Err(fail("it does not begin with a whole number"));
        }
        let number: u64 = digits.parse().map_err(|_| fail("it is too large"))?;
        let shift = shift_of(unit.trim_start()).map_err(fail)?;
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| fail("it is too large"))
    }
}

fn shift_of(unit: &str) -> Result<u32, &'static str> {
    let mut letters = unit.chars();
    let Some(letter) = letters.next() else {
        return Ok(0);
    };
    let rest = letters.as_str();
    if rest.is_empty() && letter.eq_ignore_ascii_case(&'b') {
        return Ok(0);
    }
    let (_, shift) = UNITS
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(&letter))
        .ok_or(if letter == '.' {
            "it is no whole number"
        } else {
            "its unit is unknown"
        })?;
    match rest {
        "" => Ok(shift),
        _ if rest.eq_ignore_ascii_case("ib") => Ok(shift),
        _ if rest.eq_ignore_ascii_case("b") => {
            Err("its unit may mean powers of 1000 or of 1024; memory has powers of 1024")
        }
        _ => Err("its unit is unknown"),
    }
}

impl fmt::Display for MemorySize {
    /// Writes the largest unit that leaves a whole number, in a form that can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift))
        {
            Some((letter, shift)) => write!(f, "{}{letter}iB", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Written as text; read from text or from a number of bytes.
#[cfg(feature = "serde")]
mod with_serde {
    use std::fmt;

    use serde::de::{self, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::MemorySize;

    impl Serialize for MemorySize {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if serializer.is_human_readable() {
                serializer.collect_str(self)
            } else {
                serializer.serialize_u64(self.0)
            }
        }
    }

    impl<'de> Deserialize<'de> for MemorySize {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            if deserializer.is_human_readable() {
                deserializer.deserialize_any(SizeVisitor)
            } else {
                u64::deserialize(deserializer).map(Self)
            }
        }
    }

    struct SizeVisitor;

    impl Visitor<'_> for SizeVisitor {
        type Value = MemorySize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a memory size such as \"512M\", or a number of bytes")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<MemorySize, E> {
            Ok(MemorySize(bytes))
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<MemorySize, E> {
            u64::try_from(bytes)
                .map(MemorySize)
                .map_err(|_| E::custom("a memory size below 0"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<MemorySize, E> {
            text.parse().map_err(E::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_s_ways_to_write_a_size() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("4k", 4 << 10),
            ("256M", 256 << 20),
            ("256m", 256 << 20),
            ("1G", 1 << 30),
            ("512MiB", 512 << 20),
            (" 512 MiB ", 512 << 20),
            ("6gib", 6 << 30),
            ("1T", 1 << 40),
            ("16777215T", 0xff_ffff << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            let parsed: MemorySize = text.parse().unwrap();
            assert_eq!(parsed.bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "begin with"),
            ("M", "begin with"),
            ("-1G", "begin with"),
            ("+1G", "begin with"),
            ("1.5G", "no whole number"),
            ("12X", "unknown"),
            ("12MiX", "unknown"),
            ("12é", "unknown"),
            ("1MB", "1000"),
            ("16777216T", "too large"),
            ("18446744073709551616", "too large"),
            ("99999999999999999999999999G", "too large"),
        ] {
            let error = text.parse::<MemorySize>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_long_text_does_not_make_a_long_error() {
        let error = "x".repeat(1 << 20).parse::<MemorySize>().unwrap_err();
        assert!(error.to_string().len() < 256);
    }

    #[test]
    fn display_is_exact_and_short() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1536 << 20, "1536MiB"),
            (1 << 40, "1TiB"),
            (4097, "4097B"),
        ] {
            assert_eq!(MemorySize::new(bytes).to_string(), text);
        }
    }
}
