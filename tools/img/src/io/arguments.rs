//! A command's words: options by single letters, numbers, and complaints in qemu-io's words.

use std::collections::BTreeMap;

use crate::getopt::{self, Order, Spec};
use crate::out;
use crate::text::size::{self, SizeError};

/// Why a command did nothing; what is to be said has been printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// The result of reading a command's words.
pub(super) type Read<T> = Result<T, Refused>;

/// The options and operands of one command.
#[derive(Debug)]
pub(super) struct Arguments {
    options: BTreeMap<String, String>,
    /// What is not an option.
    pub(super) operands: Vec<String>,
}

impl Arguments {
    /// Reads `words` (without the command's name) by a getopt string such as "CqP:".
    pub(super) fn parse(words: &[String], letters: &str) -> Read<Self> {
        let mut specs: Vec<Spec> = Vec::new();
        for letter in letters.chars() {
            match (letter, specs.last_mut()) {
                (':', Some(last)) => last.value = Some(""),
                _ => specs.push(Spec::flag(Some(letter), "", "")),
            }
        }
        let line = getopt::parse(words, &specs, Order::Any).map_err(|_| Refused)?;
        Ok(Self {
            options: line.options.into_iter().collect(),
            operands: line.operands,
        })
    }

    /// Whether an option is given.
    pub(super) fn has(&self, letter: &str) -> bool {
        self.options.contains_key(letter)
    }

    /// The value of an option.
    pub(super) fn value(&self, letter: &str) -> Option<&str> {
        self.options.get(letter).map(String::as_str)
    }

    /// A size that an option gives.
    pub(super) fn size(&self, letter: &str) -> Read<Option<u64>> {
        self.value(letter).map(number).transpose()
    }

    /// The byte of `-P`.
    pub(super) fn pattern(&self) -> Read<Option<u8>> {
        self.value("P").map(pattern).transpose()
    }
}

/// Longest request, as QEMU limits them.
pub(super) const MAX_REQUEST: u64 = 0x7fff_fe00;

/// Reads an offset or a length.
pub(super) fn number(text: &str) -> Read<u64> {
    match size::parse(text) {
        Ok(value) if value <= i64::MAX as u64 => return Ok(value),
        Err(SizeError::Invalid) => {
            out!(
                "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}\n"
            );
        }
        _ => out!("Parsing error: argument too large -- {text}\n"),
    }
    Err(Refused)
}

fn pattern(text: &str) -> Read<u8> {
    let value = crate::options::number("pattern", text)
        .ok()
        .and_then(|v| u8::try_from(v).ok());
    value.ok_or_else(|| {
        out!("{text} is not a valid pattern byte\n");
        Refused
    })
}

/// Reads the lengths of a vectored request; together they may be one request long.
pub(super) fn lengths(words: &[String]) -> Read<u64> {
    let mut total = 0;
    for word in words {
        let length = number(word)?;
        if length > MAX_REQUEST {
            out!("Argument '{word}' exceeds maximum size {MAX_REQUEST}\n");
            return Err(Refused);
        }
        if total > MAX_REQUEST - length {
            out!("The total number of bytes exceed the maximum size {MAX_REQUEST}\n");
            return Err(Refused);
        }
        total += length;
    }
    Ok(total)
}

/// Refuses a value that is not whole sectors.
pub(super) fn whole_sectors(value: u64, name: &str) -> Read<()> {
    if !value.is_multiple_of(512) {
        out!("{value} is not a sector-aligned value for '{name}'\n");
        return Err(Refused);
    }
    Ok(())
}
