//! The archive: where packages come from, and what state it is in.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::Runner;
use crate::request::Request;

const DEBIAN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://security.debian.org/debian-security";

/// The index whose digest stands for all packages of a suite.
const INDEX: &str = "main/binary-amd64/Packages";

/// The longest list of a suite's files that is read, in bytes; Debian's have 150 KiB.
const RELEASE_LIMIT: u64 = 4 << 20;

/// A suite of an archive, as in a line of `sources.list`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    url: String,
    suite: String,
}

impl Source {
    /// The line of `sources.list`.
    pub(crate) fn line(&self) -> String {
        format!("deb {} {} main", self.url, self.suite)
    }

    fn release(&self) -> String {
        format!("{}/dists/{}/InRelease", self.url, self.suite)
    }
}

/// Where a request's packages come from.
pub(crate) fn sources(request: &Request) -> Vec<Source> {
    let suite = request.suite().name();
    let source = |url: &str, suite: String| Source {
        url: url.to_owned(),
        suite,
    };
    match request.mirror() {
        Some(mirror) => vec![source(mirror, suite.to_owned())],
        None => vec![
            source(DEBIAN, suite.to_owned()),
            source(DEBIAN, format!("{suite}-updates")),
            source(SECURITY, format!("{suite}-security")),
        ],
    }
}

/// The state that the archive is in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The digest of each source's index of packages.
    pub(crate) indices: Vec<String>,
    /// When the release itself was made: seconds since 1970. Newer files get this time, so that
    /// an image depends on the archive alone.
    pub(crate) epoch: u64,
}

/// Asks the archive for its state. It only names an image: the packages themselves are checked by
/// apt, against the keys of the distribution.
pub(crate) fn state(request: &Request, work: &Path, runner: &Runner) -> Result<State> {
    let mut indices = Vec::new();
    let mut epoch = None;
    for source in sources(request) {
        let url = source.release();
        let wrong = |reason: &str| Error::Archive {
            url: url.clone(),
            reason: reason.to_owned(),
        };
        let file = work.join("InRelease");
        // apt's own loader knows the host's proxies.
        let mut helper = Command::new("/usr/lib/apt/apt-helper");
        helper.args(["download-file", &url]).arg(&file);
        runner
            .run(&mut helper, work, |_| {})
            .map_err(|error| match error {
                Error::Program { output, .. } => wrong(cause(&output)),
                other => other,
            })?;
        let size = fs::metadata(&file)
            .map_err(Error::file("read", &file))?
            .len();
        if size > RELEASE_LIMIT {
            return Err(wrong("it is too long"));
        }
        let bytes = fs::read(&file).map_err(Error::file("read", &file))?;
        fs::remove_file(&file).map_err(Error::file("remove", &file))?;
        let text = String::from_utf8_lossy(&bytes);
        indices.push(
            index(&text)
                .ok_or_else(|| wrong("it names no packages"))?
                .to_owned(),
        );
        if epoch.is_none() {
            let date = text.lines().find_map(|line| line.strip_prefix("Date: "));
            epoch = date.and_then(seconds);
        }
    }
    Ok(State {
        indices,
        epoch: epoch.unwrap_or_default(),
    })
}

/// The line of apt's messages that says why a file can not be had.
fn cause(output: &str) -> &str {
    let failed = output
        .lines()
        .find_map(|line| line.strip_prefix("E: Failed to fetch "));
    let reason = failed
        .and_then(|text| text.split_once("  "))
        .map(|(_url, reason)| reason);
    reason.unwrap_or("it can not be fetched")
}

/// The SHA256 of the index. Lines of the older digests look alike, but are shorter.
fn index(release: &str) -> Option<&str> {
    release.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (digest, _size, name) = (words.next()?, words.next()?, words.next()?);
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        (is_digest && name == INDEX).then_some(digest)
    })
}

/// The seconds since 1970 of a date such as "Sat, 11 Jul 2026 10:16:37 UTC".
fn seconds(date: &str) -> Option<u64> {
    let words: Vec<_> = date.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "UTC"] = words[..] else {
        return None;
    };
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = 1 + MONTHS.iter().position(|m| *m == month)? as u64;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March end with the leap day.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let mut seconds = days * 24;
    let parts: Vec<u64> = time.split(':').map_while(|p| p.parse().ok()).collect();
    let [hours, minutes, rest] = parts[..] else {
        return None;
    };
    if hours > 23 || minutes > 59 || rest > 60 {
        return None;
    }
    seconds += hours;
    Some((seconds * 60 + minutes) * 60 + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Suite, Variant};

    #[test]
    fn dates() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(
            seconds("Sat, 11 Jul 2026 10:16:37 UTC"),
            Some(1_783_764_997)
        );
        assert_eq!(
            seconds("Thu, 29 Feb 2024 23:59:59 UTC"),
            Some(1_709_251_199)
        );
        for wrong in [
            "",
            "Sat, 11 Jul 2026 10:16:37 CET",
            "Sat, 11 Jul 99999999999 10:16:37 UTC",
            "Sat, 99 Jul 2026 10:16:37 UTC",
            "Sat, 11 Foo 2026 10:16:37 UTC",
            "Sat, 11 Jul 2026 99:16:37 UTC",
            "Sat, 11 Jul 2026 10:16 UTC",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_index_is_found_by_its_long_digest() {
        let digest = "a".repeat(64);
        let text = format!(
            "MD5Sum:\n {} 5 {INDEX}\nSHA256:\n {digest} 5 {INDEX}.xz\n {digest} 5 {INDEX}\n",
            "b".repeat(32)
        );
        assert_eq!(index(&text), Some(digest.as_str()));
        assert_eq!(index("SHA256:\n"), None);
    }

    #[test]
    fn the_cause_of_a_failure_is_found() {
        let output = "W: about users\nE: Failed to fetch http://x/InRelease  404  Not Found\n\
                      E: Download Failed";
        assert_eq!(cause(output), "404  Not Found");
        assert_eq!(cause(""), "it can not be fetched");
    }

    #[test]
    fn a_mirror_replaces_all_sources() {
        let request = Request::new(Suite::Trixie, Variant::Test);
        let lines: Vec<_> = sources(&request).iter().map(Source::line).collect();
        assert_eq!(
            lines,
            [
                "deb http://deb.debian.org/debian trixie main",
                "deb http://deb.debian.org/debian trixie-updates main",
                "deb http://security.debian.org/debian-security trixie-security main",
            ]
        );
        let request = request.with_mirror("file:/srv/debian/").unwrap();
        let lines: Vec<_> = sources(&request).iter().map(Source::line).collect();
        assert_eq!(lines, ["deb file:/srv/debian trixie main"]);
    }
}
