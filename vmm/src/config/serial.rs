//! The serial port's far end: `stdio`, `null`, `file=PATH` or `unix=PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::options::text;

/// What the guest's first serial port is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SerialTarget {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nothing: output is dropped.
    Null,
    /// A file that receives the output.
    File(PathBuf),
    /// A unix socket that one client at a time may connect to.
    Unix(PathBuf),
}

impl SerialTarget {
    /// This target with its path, if it has one, put through `map`.
    #[must_use]
    pub fn map_path(self, map: impl FnOnce(PathBuf) -> PathBuf) -> Self {
        match self {
            Self::File(path) => Self::File(map(path)),
            Self::Unix(path) => Self::Unix(map(path)),
            other => other,
        }
    }
}

impl FromStr for SerialTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "null" => Ok(Self::Null),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err(format!(
                "the far end is stdio, null, file=PATH or unix=PATH, not \"{text}\""
            )),
        }
    }
}

impl fmt::Display for SerialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Null => f.write_str("null"),
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::Unix(path) => write!(f, "unix={}", path.display()),
        }
    }
}

text!(SerialTarget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for text in ["stdio", "null", "file=/tmp/a=b", "unix=/run/x"] {
            assert_eq!(text.parse::<SerialTarget>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", "std", "file=", "unix", "tcp=1", "stdio=1"] {
            assert!(text.parse::<SerialTarget>().is_err(), "{text}");
        }
    }
}
