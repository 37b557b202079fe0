//! Guest memory: `SIZE[,hugepages=..][,shared=..]`.

use serde::{Deserialize, Serialize};
use strata_memory::MemorySize;

use super::options::{self, FromText, Options, options};

/// Which pages of the host back guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// Transparent huge pages, where the host has them to give.
    #[default]
    #[serde(rename = "thp")]
    Transparent,
    /// Pages of the base size only.
    #[serde(rename = "off")]
    Off,
    /// 2 MiB pages from the host's pool (hugetlbfs).
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB pages from the host's pool (hugetlbfs).
    #[serde(rename = "1G")]
    Size1G,
}

/// A machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Its size.
    #[serde(deserialize_with = "size")]
    pub size: MemorySize,
    /// The host's pages behind it.
    #[serde(default)]
    pub hugepages: HugePages,
    /// Whether other processes can map it (memfd) or not.
    #[serde(default, deserialize_with = "options::value")]
    pub shared: bool,
}

impl Options for MemoryConfig {
    const HEADS: &'static [&'static str] = &["size"];
    const WHAT: &'static str = "memory";
}

options!(MemoryConfig);

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: MemorySize::new(256 << 20),
            hugepages: HugePages::default(),
            shared: false,
        }
    }
}

impl FromText for MemorySize {
    const EXPECTED: &'static str = "a size as 512M or 2G";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| match error {
            // It may be that of a rate.
            strata_memory::Error::ParseSize { text, reason } => {
                format!("'{text}' is no size: {reason}; write for example 512K, 10M or 2G")
            }
            error => error.to_string(),
        })
    }
}

/// A size that is one. A number alone is no size in a file: its unit would be a guess.
fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<MemorySize, D::Error> {
    let size = MemorySize::from_text(&String::deserialize(deserializer)?)
        .map_err(serde::de::Error::custom)?;
    if size.bytes() == 0 {
        return Err(serde::de::Error::custom(
            "a machine needs memory: 0 is no size, 256M is a good first one",
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_size() {
        let config: MemoryConfig = "6G,hugepages=2M,shared=on".parse().unwrap();
        assert_eq!(config.size, MemorySize::new(6 << 30));
        assert_eq!((config.hugepages, config.shared), (HugePages::Size2M, true));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(json, r#"{"size":"6GiB","hugepages":"2M","shared":true}"#);
        assert_eq!(serde_json::from_str::<MemoryConfig>(&json).unwrap(), config);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (text, needle) in [
            ("0", "256M"),
            ("1G,hugepages=3M", "`2M`, `1G`"),
            ("1G,shared=perhaps", "on or off"),
            ("1G,huge", "`hugepages`"),
            ("", "number"),
            ("lots", "number"),
        ] {
            let message = text.parse::<MemoryConfig>().unwrap_err();
            assert!(message.contains(needle), "{text}: {message}");
        }
    }
}
