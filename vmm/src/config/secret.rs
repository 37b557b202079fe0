//! Secrets: `id=NAME,file=PATH` or `id=NAME,data=TEXT`, which disks name.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::options::{Options, options};

/// A passphrase. What is printed of it is its name, and the file that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretConfig {
    /// The name that disks call it by.
    pub id: String,
    /// The file with it: every byte, a line's end too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The passphrase itself. Others on the host can see it on a command line.
    #[serde(default, skip_serializing)]
    pub data: Option<SecretText>,
}

/// A text that is not printed, and wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl Options for SecretConfig {
    const HEADS: &'static [&'static str] = &[];
    const WHAT: &'static str = "secret";

    fn check(&self) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("id is empty; name it as disks shall call it".to_owned());
        }
        match (&self.file, &self.data) {
            (Some(_), Some(_)) => Err("say file or data, not both".to_owned()),
            (None, None) => Err("say file=PATH, the file with the passphrase".to_owned()),
            _ => Ok(()),
        }
    }
}

options!(SecretConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_not_printed() {
        let secret: SecretConfig = "id=sec0,data=a,,b".parse().unwrap();
        assert_eq!(secret.data.as_ref().unwrap().as_bytes(), b"a,b");
        assert!(!format!("{secret:?}").contains("a,b"));
        let printed = serde_json::to_string(&secret).unwrap();
        assert_eq!(printed, r#"{"id":"sec0"}"#);
        let secret: SecretConfig = "id=sec0,file=/s".parse().unwrap();
        let printed = serde_json::to_string(&secret).unwrap();
        assert_eq!(printed, r#"{"id":"sec0","file":"/s"}"#);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, needle) in [
            ("file=/s", "`id`"),
            ("id=,file=/s", "empty"),
            ("id=s", "file=PATH"),
            ("id=s,file=/s,data=x", "not both"),
            ("id=s,data=x,format=base64", "`format`"),
        ] {
            let refused = text.parse::<SecretConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
