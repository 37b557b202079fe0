//! Ports of the virtio console: `[port=NAME:]TARGET`, with the targets of the serial port.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::SerialTarget;
use super::options::text;

/// The longest name that a port may have, in bytes.
const MAX_NAME: usize = 255;

/// A port of the virtio console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePort {
    /// What a program in the guest finds it by, as `/dev/virtio-ports/NAME`; a console, hvc0 and so
    /// on, where it is empty.
    pub name: String,
    /// Its far end.
    pub target: SerialTarget,
}

impl ConsolePort {
    /// This port with its target's path, if it has one, put through `map`.
    #[must_use]
    pub fn map_path(self, map: impl FnOnce(PathBuf) -> PathBuf) -> Self {
        Self {
            target: self.target.map_path(map),
            ..self
        }
    }
}

impl FromStr for ConsolePort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, target) = match text.strip_prefix("port=") {
            None => ("", text),
            Some(rest) => match rest.split_once(':') {
                Some((name, target)) if (1..=MAX_NAME).contains(&name.len()) => (name, target),
                _ => {
                    return Err(format!(
                        "port=NAME:TARGET has a name of 1 to {MAX_NAME} bytes, not \"{text}\""
                    ));
                }
            },
        };
        let name = name.to_owned();
        target.parse().map(|target| Self { name, target })
    }
}

impl fmt::Display for ConsolePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "port={}:", self.name)?;
        }
        self.target.fmt(f)
    }
}

text!(ConsolePort);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for text in ["stdio", "file=/tmp/a:b", "port=agent.0:unix=/run/a:b"] {
            assert_eq!(text.parse::<ConsolePort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", "tty", "port=a", "port=:null", "port=a:", "agent:null"] {
            assert!(text.parse::<ConsolePort>().is_err(), "{text}");
        }
    }
}
