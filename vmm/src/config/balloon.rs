//! The balloon: `[SIZE][,deflate-on-oom=..][,free-page-reporting=..]`.

use serde::{Deserialize, Serialize};
use strata_memory::MemorySize;

use super::options::{self, Options, options};

/// A memory balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BalloonConfig {
    /// How much of its memory the guest is asked to give from the start.
    #[serde(default = "nothing", deserialize_with = "options::value")]
    pub size: MemorySize,
    /// Whether the guest may take memory back before it runs out of it.
    #[serde(default = "yes", deserialize_with = "options::value")]
    pub deflate_on_oom: bool,
    /// Whether the guest says all the time which memory it does not use.
    #[serde(default = "yes", deserialize_with = "options::value")]
    pub free_page_reporting: bool,
}

impl Options for BalloonConfig {
    const HEADS: &'static [&'static str] = &["size"];
    const WHAT: &'static str = "balloon";
}

options!(BalloonConfig);

fn nothing() -> MemorySize {
    MemorySize::new(0)
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_default() {
        let balloon: BalloonConfig = "0".parse().unwrap();
        assert!(balloon.deflate_on_oom && balloon.free_page_reporting);
        assert_eq!("free-page-reporting=on".parse(), Ok(balloon));
        let balloon: BalloonConfig = "64M,deflate-on-oom=off".parse().unwrap();
        assert_eq!(balloon.size, MemorySize::new(64 << 20));
        assert!(!balloon.deflate_on_oom);
        let json = serde_json::to_value(balloon).unwrap();
        assert_eq!(
            serde_json::from_value::<BalloonConfig>(json).unwrap(),
            balloon
        );
        let refused = "big".parse::<BalloonConfig>().unwrap_err();
        assert!(refused.contains("number"), "{refused}");
    }
}
