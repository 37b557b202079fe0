//! DNS servers that belong to an interface: those of systemd-resolved. A plain `/etc/resolv.conf`
//! names servers for all interfaces, and needs no move.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Host;

/// An interface's DNS settings, as words for `resolvectl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dns {
    pub servers: Vec<String>,
    pub domains: Vec<String>,
}

impl Dns {
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.domains.is_empty()
    }

    /// The settings of `interface`: none where systemd-resolved does not run or has none for it.
    pub(crate) fn read(host: &Host, interface: &str) -> Self {
        if !host.run_dir("systemd/resolve").is_dir() {
            return Self::default();
        }
        let words = |what| ask(host, what, interface).unwrap_or_default();
        Self {
            servers: words("dns"),
            domains: words("domain"),
        }
    }

    /// Gives the settings to `interface`. A failure is not fatal, so it is returned as a note.
    pub(crate) fn apply(&self, host: &Host, interface: &str) -> Option<String> {
        for (what, words) in [("dns", &self.servers), ("domain", &self.domains)] {
            if words.is_empty() {
                continue;
            }
            let status = resolvectl(host)
                .arg(what)
                .arg(interface)
                .args(words)
                .status();
            if !status.is_ok_and(|status| status.success()) {
                return Some(format!(
                    "`resolvectl {what} {interface} {}` failed: names may not resolve until it is \
                     done by hand",
                    words.join(" ")
                ));
            }
        }
        None
    }
}

/// `resolvectl WHAT INTERFACE` answers as `Link 2 (eth0): 192.0.2.1 192.0.2.2`.
fn ask(host: &Host, what: &str, interface: &str) -> Option<Vec<String>> {
    let output = resolvectl(host).arg(what).arg(interface).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, words) = text.lines().next()?.split_once("): ")?;
    let safe = |word: &&str| !word.starts_with('-');
    Some(
        words
            .split_whitespace()
            .filter(safe)
            .map(str::to_owned)
            .collect(),
    )
}

fn resolvectl(host: &Host) -> Command {
    let program: OsString = host
        .resolvectl
        .clone()
        .unwrap_or_else(|| PathBuf::from("resolvectl"))
        .into();
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}
