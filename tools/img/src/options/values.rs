//! Options as given, checked against their table.

use super::table::{Entry, Kind, Table};
use crate::out;
use crate::report::{Failure, Outcome};
use crate::text::{keyval, size};

/// A set of options with their values.
#[derive(Debug)]
pub struct Values {
    table: Table,
    given: Vec<(String, String)>,
}

impl Values {
    /// No option given yet.
    pub fn new(table: Table) -> Self {
        Self {
            table,
            given: Vec::new(),
        }
    }

    /// Adds the options of a `-o` string.
    ///
    /// # Errors
    /// For an unknown option or a value of another type.
    pub fn parse(&mut self, text: &str) -> Outcome<()> {
        keyval::parse(text, None)
            .into_iter()
            .try_for_each(|(name, value)| self.set(&name, &value))
    }

    /// Gives one option a value.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn set(&mut self, name: &str, value: &str) -> Outcome<()> {
        let entry = self
            .entry(name)
            .ok_or_else(|| Failure::new(format!("Invalid parameter '{name}'")))?;
        match entry.kind {
            Kind::Text => {}
            Kind::Switch => drop(switch(name, value)?),
            Kind::Number => drop(number(name, value)?),
            Kind::Size => drop(sized(name, value)?),
        }
        self.given.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// The options whose names `keep` accepts.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = |(name, _): &&(String, String)| keep(name);
        Self {
            table: self.table.clone(),
            given: self.given.iter().filter(kept).cloned().collect(),
        }
    }

    /// Whether the table has this option.
    pub fn knows(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.table.iter().find(|entry| entry.name == name)
    }

    /// The text given last.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given
            .iter()
            .rev()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    /// A switch; the type was checked when it was set.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(|value| switch(name, value).ok())
    }

    /// A number or size; the type was checked when it was set.
    pub fn number(&self, name: &str) -> Option<u64> {
        let kind = self.entry(name)?.kind;
        let value = self.text(name)?;
        if kind == Kind::Size {
            sized(name, value).ok()
        } else {
            number(name, value).ok()
        }
    }

    /// All that were given, in their order.
    pub fn given(&self) -> &[(String, String)] {
        &self.given
    }

    /// Prints what is given or has a default, as `name=value` with single spaces.
    pub fn print(&self) {
        let mut separator = "";
        for entry in &self.table {
            let value = match (self.text(entry.name), entry.kind) {
                (Some(value), Kind::Text) => keyval::escape(value),
                (Some(_), Kind::Number | Kind::Size) => {
                    self.number(entry.name).unwrap_or_default().to_string()
                }
                (Some(value), Kind::Switch) => value.to_owned(),
                (None, _) => match entry.default {
                    Some(default) => default.to_owned(),
                    None => continue,
                },
            };
            out!("{separator}{}={value}", entry.name);
            separator = " ";
        }
    }
}

/// Prints one line per option, sorted by name.
pub(super) fn help(table: &Table) {
    let mut table: Vec<_> = table.iter().collect();
    table.sort_by_key(|entry| entry.name);
    for entry in table {
        let kind = match entry.kind {
            Kind::Text => "str",
            Kind::Switch => "bool (on/off)",
            Kind::Number => "num",
            Kind::Size => "size",
        };
        let head = format!("{}=<{kind}>", entry.name);
        out!("  {head:<22} - {}\n", entry.help);
    }
}

/// Reads `on` or `off` and their synonyms.
pub(crate) fn switch(name: &str, value: &str) -> Outcome<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Failure::new(format!(
            "Parameter '{name}' expects 'on' or 'off'"
        ))),
    }
}

/// Reads a number, hexadecimal behind `0x` and octal behind `0`.
pub(crate) fn number(name: &str, value: &str) -> Outcome<u64> {
    // The C library's strtoull takes a sign and wraps around.
    if let Some(digits) = value.strip_prefix('-') {
        return number(name, digits).map(u64::wrapping_neg);
    }
    let (digits, radix) = match value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"))
    {
        Some(hex) => (hex, 16),
        None if value.len() > 1 && value.starts_with('0') => (&value[1..], 8),
        None => (value, 10),
    };
    u64::from_str_radix(digits, radix)
        .map_err(|_| Failure::new(format!("Parameter '{name}' expects a number")))
}

/// Reads a size.
pub(crate) fn sized(name: &str, value: &str) -> Outcome<u64> {
    size::parse(value).map_err(|error| match error {
        size::SizeError::Range => Failure::new(format!(
            "Value '{value}' is out of range for parameter '{name}'"
        )),
        size::SizeError::Invalid => Failure::new(format!(
            "Parameter '{name}' expects a non-negative number below 2^64"
        ))
        .hint(
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
             and exabytes, respectively.",
        ),
    })
}
