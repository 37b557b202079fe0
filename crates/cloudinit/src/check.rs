//! What cloud-init would not understand. It complains only in its own log, in the guest.

/// A part of a seed that cloud-init would ignore or misunderstand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// There is nothing to do.
    #[error("user-data is empty: cloud-init will do nothing but its defaults")]
    UserDataEmpty,
    /// The first line names no format.
    #[error(
        "user-data begins with {0:?}, which cloud-init ignores: its first line must be \
         `#cloud-config`, `#!` with an interpreter, or another of its formats"
    )]
    UserDataFormat(String),
    /// A script whose lines end as on Windows: its interpreter would not be found.
    #[error("the script in user-data has lines that end in CR LF: Linux will not run it")]
    ScriptLineEnds,
    /// cloud-init tells instances apart by their id.
    #[error("meta-data has no `instance-id`: cloud-init will take every seed for the same machine")]
    NoInstanceId,
    /// The format's version decides how the rest is read.
    #[error("network-config has no `version`: cloud-init needs `version: 1` or `version: 2`")]
    NoNetworkVersion,
}

/// How user-data may begin, in lower case (cloud-init, "User data formats").
const FORMATS: [&[u8]; 9] = [
    b"#cloud-config", // and its archive and jsonp
    b"#!",
    b"#include", // and include-once
    b"#cloud-boothook",
    b"#part-handler",
    b"## template: jinja",
    b"#upstart-job",
    b"content-type:",
    b"mime-version:",
];

/// A compressed stream, which cloud-init unpacks first.
const GZIP: &[u8] = b"\x1f\x8b";

/// How many bytes of hostile text a warning quotes.
const QUOTED: usize = 40;

/// How many bytes are searched for a key.
const SEARCHED: usize = 64 << 10;

pub(crate) fn user_data(bytes: &[u8]) -> Vec<Warning> {
    let text = bytes.trim_ascii_start();
    if text.is_empty() {
        return vec![Warning::UserDataEmpty];
    }
    if bytes.starts_with(GZIP) {
        return Vec::new();
    }
    let begins = |format: &&[u8]| {
        let start = text.get(..format.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(format))
    };
    if !FORMATS.iter().any(begins) {
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
        let line = line.get(..QUOTED).unwrap_or(line);
        let quoted = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        return vec![Warning::UserDataFormat(quoted)];
    }
    let first_end = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if text.starts_with(b"#!") && first_end.ends_with(b"\r") {
        return vec![Warning::ScriptLineEnds];
    }
    Vec::new()
}

pub(crate) fn meta_data(text: &[u8]) -> Option<Warning> {
    // The older name of the key is taken too.
    let found = has_key(text, b"instance-id") || has_key(text, b"instance_id");
    (!found).then_some(Warning::NoInstanceId)
}

pub(crate) fn network_config(text: &[u8]) -> Option<Warning> {
    (!has_key(text, b"version")).then_some(Warning::NoNetworkVersion)
}

/// Whether a YAML or JSON text seems to have a key, at whatever depth.
fn has_key(text: &[u8], key: &[u8]) -> bool {
    let text = text.get(..SEARCHED).unwrap_or(text);
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    text.windows(key.len()).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let rest = text.get(at + key.len()..).unwrap_or_default();
        let rest = rest
            .strip_prefix(b"\"")
            .or(rest.strip_prefix(b"'"))
            .unwrap_or(rest);
        window == key && !before.is_some_and(is_part) && rest.trim_ascii_start().starts_with(b":")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_user_data() {
        for good in [
            &b"#cloud-config\nusers: []\n"[..],
            b"\n\n#cloud-config\r\nusers: []\r\n",
            b"#!/bin/sh\necho\n",
            b"#include\nhttp://x\n",
            b"Content-Type: multipart/mixed; boundary=x\n",
            b"## template: jinja\n#cloud-config\n",
            b"\x1f\x8b\x08\x00",
        ] {
            assert_eq!(user_data(good), [], "{}", good.escape_ascii());
        }
        let format = |text: &str| vec![Warning::UserDataFormat(text.into())];
        assert_eq!(user_data(b"# cloud-config\nx"), format("# cloud-config"));
        assert_eq!(user_data(b"users: []"), format("users: []"));
        assert_eq!(user_data(&[0xff; 1000]), format(&"\u{fffd}".repeat(QUOTED)));
        assert_eq!(user_data(b" \n"), [Warning::UserDataEmpty]);
        assert_eq!(
            user_data(b"#!/bin/sh\r\necho\r\n"),
            [Warning::ScriptLineEnds]
        );
    }

    #[test]
    fn keys() {
        for good in [
            "instance-id: x",
            "a: 1\ninstance-id : x",
            "{\"instance-id\": \"x\"}",
        ] {
            assert_eq!(meta_data(good.as_bytes()), None, "{good}");
        }
        for bad in [
            "",
            "my-instance-id: x",
            "instance-id",
            "instance-ids: x",
            "# instance-id",
        ] {
            assert_eq!(
                meta_data(bad.as_bytes()),
                Some(Warning::NoInstanceId),
                "{bad}"
            );
        }
        assert_eq!(network_config(b"network:\n  version: 2\n"), None);
        assert_eq!(
            network_config(b"ethernets: {}"),
            Some(Warning::NoNetworkVersion)
        );
    }
}
