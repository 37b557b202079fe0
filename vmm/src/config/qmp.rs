//! The control socket: `unix=PATH`, or as QEMU's users say it, `unix:PATH,server=on,wait=off`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::options::{self, Options, options};

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QmpConfig {
    /// Where the socket is made.
    #[serde(deserialize_with = "path")]
    pub unix: PathBuf,
    /// Whether PCI slots can be filled and emptied while the guest runs. A guest that boots looks
    /// into all of them.
    #[serde(default = "yes", deserialize_with = "options::value")]
    pub hotplug: bool,
    /// QEMU's word for a socket that waits for clients. Nothing else is on offer.
    #[serde(default = "yes", deserialize_with = "options::value", skip_serializing)]
    server: bool,
    /// QEMU's word for a machine that waits for its first client. It does not.
    #[serde(default, deserialize_with = "options::value", skip_serializing)]
    wait: bool,
}

impl Options for QmpConfig {
    const HEADS: &'static [&'static str] = &["unix"];
    const WHAT: &'static str = "qmp";

    fn check(&self) -> Result<(), String> {
        if self.unix.as_os_str().is_empty() {
            return Err("unix needs the path of a socket".to_owned());
        }
        if self.unix.to_string_lossy().starts_with("tcp:") {
            return Err("a unix socket is all there is, which has permissions".to_owned());
        }
        match (self.server, self.wait) {
            (false, _) => Err("strata is the server: leave server=off out".to_owned()),
            (_, true) => Err("no machine waits for a client: leave wait=on out".to_owned()),
            _ => Ok(()),
        }
    }
}

options!(QmpConfig);

/// A path, which QEMU's users put behind `unix:`.
fn path<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(text.strip_prefix("unix:").unwrap_or(&text).into())
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_words_say_the_same() {
        let ours: QmpConfig = "unix=/tmp/q".parse().unwrap();
        assert!(ours.hotplug);
        for text in [
            "/tmp/q",
            "unix:/tmp/q",
            "unix:/tmp/q,server=on,wait=off",
            "unix:/tmp/q,server,wait=off",
        ] {
            assert_eq!(text.parse::<QmpConfig>().as_ref(), Ok(&ours), "{text}");
        }
        let json = serde_json::to_string(&ours).unwrap();
        assert_eq!(json, r#"{"unix":"/tmp/q","hotplug":true}"#);
        assert_eq!(serde_json::from_str::<QmpConfig>(&json).unwrap(), ours);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, needle) in [
            ("", "path"),
            ("unix=", "path"),
            ("unix:/tmp/q,server=off", "server=off"),
            ("unix:/tmp/q,wait=on", "wait=on"),
            ("tcp:localhost:4444,server", "unix socket"),
            ("unix=/tmp/q,hotplug=perhaps", "on or off"),
        ] {
            let refused = text.parse::<QmpConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
