//! The socket device: `cid=N,socket=PATH`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::options::{self, Options, options};

/// A socket device, by which programs of the guest and of the host connect to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VsockConfig {
    /// The guest's context id.
    #[serde(deserialize_with = "options::value")]
    pub cid: u64,
    /// The unix socket that the host's programs connect to; they listen at its path with `_PORT`.
    pub socket: PathBuf,
}

impl Options for VsockConfig {
    const HEADS: &'static [&'static str] = &[];
    const WHAT: &'static str = "vsock";
}

options!(VsockConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_are_needed() {
        let vsock: VsockConfig = "cid=3,socket=/run/v".parse().unwrap();
        assert_eq!((vsock.cid, vsock.socket), (3, "/run/v".into()));
        for (text, needle) in [
            ("cid=3", "socket"),
            ("socket=v", "cid"),
            ("cid=x,socket=v", "number"),
            ("3,socket=v", "there is no option `3`"),
        ] {
            let refused = text.parse::<VsockConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
