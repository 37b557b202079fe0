//! Guest memory: `SIZE[,hugepages=..][,shared=..]`.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use strata_memory::MemorySize;

/// Which pages of the host back guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Transparent huge pages, where the host has them to give.
    #[default]
    Transparent,
    /// Pages of the base size only.
    Off,
    /// 2 MiB pages from the host's pool (hugetlbfs).
    Size2M,
    /// 1 GiB pages from the host's pool (hugetlbfs).
    Size1G,
}

impl HugePages {
    const NAMES: [(&'static str, Self); 4] = [
        ("thp", Self::Transparent),
        ("off", Self::Off),
        ("2M", Self::Size2M),
        ("1G", Self::Size1G),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Transparent => "thp",
            Self::Off => "off",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        }
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|&(_, value)| value)
            .ok_or_else(|| format!("hugepages is thp, off, 2M or 1G, not \"{text}\""))
    }
}

/// A machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Its size.
    pub size: MemorySize,
    /// The host's pages behind it.
    pub hugepages: HugePages,
    /// Whether other processes can map it (memfd) or not.
    pub shared: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: MemorySize::new(256 << 20),
            hugepages: HugePages::default(),
            shared: false,
        }
    }
}

impl FromStr for MemoryConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let size = parts.next().unwrap_or_default();
        let mut config = Self {
            size: parse_size(size)?,
            ..Self::default()
        };
        for part in parts {
            match part.split_once('=') {
                Some(("hugepages", value)) => config.hugepages = value.parse()?,
                Some(("shared", value)) => config.shared = parse_switch("shared", value)?,
                _ => {
                    return Err(format!(
                        "memory has no option \"{part}\"; known are hugepages=thp|off|2M|1G and \
                         shared=on|off"
                    ));
                }
            }
        }
        Ok(config)
    }
}

fn parse_size(text: &str) -> Result<MemorySize, String> {
    let size: MemorySize = text
        .parse()
        .map_err(|error: strata_memory::Error| error.to_string())?;
    if size.bytes() == 0 {
        return Err("a machine needs memory: 0 is no size, 256M is a good first one".to_owned());
    }
    Ok(size)
}

fn parse_switch(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(format!("{key} is on or off, not \"{text}\"")),
    }
}

impl fmt::Display for MemoryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        if self.hugepages != HugePages::default() {
            write!(f, ",hugepages={}", self.hugepages.name())?;
        }
        if self.shared {
            f.write_str(",shared=on")?;
        }
        Ok(())
    }
}

impl Serialize for MemoryConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The longer of the two ways in which a file may say it; the other is the command line's text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    size: String,
    hugepages: Option<String>,
    shared: Option<bool>,
}

impl<'de> Deserialize<'de> for MemoryConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InFile)
    }
}

struct InFile;

impl<'de> Visitor<'de> for InFile {
    type Value = MemoryConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text as \"1G,hugepages=2M\", or a table of size, hugepages and shared")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MemoryConfig, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MemoryConfig, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        table.try_into().map_err(de::Error::custom)
    }
}

impl TryFrom<Table> for MemoryConfig {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        Ok(Self {
            size: parse_size(&table.size)?,
            hugepages: table
                .hugepages
                .map_or(Ok(HugePages::default()), |text| text.parse())?,
            shared: table.shared.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for text in [
            "256MiB",
            "1GiB,hugepages=2M",
            "6GiB,hugepages=off,shared=on",
            "2GiB,shared=on",
        ] {
            assert_eq!(text.parse::<MemoryConfig>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (text, needle) in [
            ("0", "256M"),
            ("1G,hugepages=3M", "2M or 1G"),
            ("1G,shared=perhaps", "on or off"),
            ("1G,huge", "hugepages="),
            ("", ""),
            ("lots", ""),
        ] {
            let message = text.parse::<MemoryConfig>().unwrap_err();
            assert!(message.contains(needle), "{text}: {message}");
        }
    }
}
