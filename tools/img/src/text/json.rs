//! JSON as qemu reads and prints it: strings may be quoted singly, and the members of an object
//! are printed in the order of qemu's hash table, which scripts have come to know.

use std::fmt::Write;

/// How deep objects and lists may nest.
const MAX_DEPTH: usize = 64;

/// A JSON value. Numbers are integers; nothing here needs others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// An object, its members in the order of their insertion.
    Object(Vec<(String, Value)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Int(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

/// An object of these members, those that are None left out.
pub fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let present = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

/// The members in the order of qemu's hash table: 512 buckets, the newest first in each.
pub fn hash_order(members: &[(String, Value)]) -> Vec<&(String, Value)> {
    let mut ordered: Vec<_> = members.iter().rev().collect();
    ordered.sort_by_key(|(name, _)| hash(name) % 512);
    ordered
}

/// The string hash of tdb, the trivial database.
fn hash(name: &str) -> u32 {
    let start = 0x238f_13af_u32.wrapping_mul(name.len() as u32);
    let mixed = name.bytes().enumerate().fold(start, |sum, (i, byte)| {
        sum.wrapping_add(u32::from(byte) << (i * 5 % 24))
    });
    mixed.wrapping_mul(1_103_515_243).wrapping_add(12345)
}

impl Value {
    /// The text over several lines, indented by four spaces per level.
    pub fn pretty(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text
    }

    /// The text on one line.
    pub fn compact(&self) -> String {
        match self {
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(Value::compact).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Object(members) => {
                let members: Vec<_> = hash_order(members)
                    .into_iter()
                    .map(|(name, value)| format!("{}: {}", quoted(name), value.compact()))
                    .collect();
                format!("{{{}}}", members.join(", "))
            }
            other => other.pretty(),
        }
    }

    fn write(&self, text: &mut String, depth: usize) {
        match self {
            Value::Null => text.push_str("null"),
            Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => text.push_str(&value.to_string()),
            Value::Text(value) => text.push_str(&quoted(value)),
            Value::List(items) => {
                text.push('[');
                for (i, item) in items.iter().enumerate() {
                    text.push_str(if i > 0 { "," } else { "" });
                    new_line(text, depth + 1);
                    item.write(text, depth + 1);
                }
                new_line(text, depth);
                text.push(']');
            }
            Value::Object(members) => {
                text.push('{');
                for (i, (name, value)) in hash_order(members).into_iter().enumerate() {
                    text.push_str(if i > 0 { "," } else { "" });
                    new_line(text, depth + 1);
                    text.push_str(&quoted(name));
                    text.push_str(": ");
                    value.write(text, depth + 1);
                }
                new_line(text, depth);
                text.push('}');
            }
        }
    }

    /// The members and items below this value as dotted names with scalar texts.
    pub fn flatten(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        self.flatten_into("", &mut pairs);
        pairs
    }

    fn flatten_into(&self, name: &str, pairs: &mut Vec<(String, String)>) {
        let below = |key: &str| {
            if name.is_empty() {
                key.to_owned()
            } else {
                format!("{name}.{key}")
            }
        };
        match self {
            Value::Null => pairs.push((name.to_owned(), String::new())),
            Value::Bool(true) => pairs.push((name.to_owned(), "on".to_owned())),
            Value::Bool(false) => pairs.push((name.to_owned(), "off".to_owned())),
            Value::Int(value) => pairs.push((name.to_owned(), value.to_string())),
            Value::Text(value) => pairs.push((name.to_owned(), value.clone())),
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    item.flatten_into(&below(&i.to_string()), pairs);
                }
            }
            Value::Object(members) => {
                for (key, value) in members {
                    value.flatten_into(&below(key), pairs);
                }
            }
        }
    }
}

fn new_line(text: &mut String, depth: usize) {
    let _ = write!(text, "\n{:1$}", "", depth * 4);
}

fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04X}");
                }
            }
        }
    }
    text.push('"');
    text
}

/// Reads one JSON value that takes the whole of `text`.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(reader.fault())
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn fault(&self) -> String {
        match self.rest.chars().next() {
            Some(c) => format!("JSON parse error, stray '{c}'"),
            None => "JSON parse error, premature end of input".to_owned(),
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("JSON parse error, nested too deeply".to_owned());
        }
        self.skip_space();
        let words = [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ];
        for (word, value) in words {
            if self.take(word) {
                return Ok(value);
            }
        }
        if self.take("{") {
            return self.members(depth);
        }
        if self.take("[") {
            return self.items(depth);
        }
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.string(quote).map(Value::Text),
            Some('-' | '0'..='9') => self.number(),
            _ => Err(self.fault()),
        }
    }

    fn members(&mut self, depth: usize) -> Result<Value, String> {
        let mut members: Vec<(String, Value)> = Vec::new();
        if self.take("}") {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            let name = match self.rest.chars().next() {
                Some(quote @ ('"' | '\'')) => self.string(quote)?,
                _ => return Err(self.fault()),
            };
            if !self.take(":") {
                return Err(self.fault());
            }
            if members.iter().any(|(other, _)| *other == name) {
                return Err("JSON parse error, duplicate key".to_owned());
            }
            let value = self.value(depth + 1)?;
            members.push((name, value));
            if self.take("}") {
                return Ok(Value::Object(members));
            }
            if !self.take(",") {
                return Err(self.fault());
            }
        }
    }

    fn items(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take("]") {
                return Ok(Value::List(items));
            }
            if !self.take(",") {
                return Err(self.fault());
            }
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let end = self.rest[1..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(self.rest.len(), |i| i + 1);
        let (digits, rest) = self.rest.split_at(end);
        let value = digits.parse().map_err(|_| self.fault())?;
        self.rest = rest;
        Ok(Value::Int(value))
    }

    fn string(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next() {
                None => return Err("JSON parse error, unterminated string".to_owned()),
                Some(c) if c == quote => break,
                Some('\\') => text.push(escape(&mut chars)?),
                Some(c) => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }
}

fn escape(chars: &mut std::str::Chars<'_>) -> Result<char, String> {
    let fault = || "JSON parse error, invalid escape sequence in string".to_owned();
    match chars.next().ok_or_else(fault)? {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        'b' => Ok('\u{8}'),
        'f' => Ok('\u{c}'),
        c @ ('"' | '\'' | '\\' | '/') => Ok(c),
        'u' => {
            let digits: String = chars.by_ref().take(4).collect();
            let code = u32::from_str_radix(&digits, 16).map_err(|_| fault())?;
            char::from_u32(code)
                .filter(|c| *c != '\0')
                .ok_or_else(fault)
        }
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_quotes_are_read_and_one_is_printed() {
        let value = parse("{'a': [1, -2, true, null], \"b\": 'x\\u0041\"'}").unwrap();
        assert_eq!(
            value.compact(),
            r#"{"a": [1, -2, true, null], "b": "xA\""}"#
        );
        let flat = value.flatten();
        assert_eq!(flat[1], ("a.1".to_owned(), "-2".to_owned()));
        assert_eq!(flat[4], ("b".to_owned(), "xA\"".to_owned()));
    }

    #[test]
    fn members_come_in_hash_order() {
        let names = [
            "dirty-flag",
            "filename",
            "virtual-size",
            "cluster-size",
            "format",
        ];
        let members: Vec<_> = names.map(|name| (name.to_owned(), Value::Null)).into();
        let order: Vec<_> = hash_order(&members)
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            order,
            [
                "virtual-size",
                "filename",
                "cluster-size",
                "format",
                "dirty-flag"
            ]
        );
    }

    #[test]
    fn malformed_texts_are_refused() {
        let deep = "[".repeat(100_000);
        for bad in [
            "",
            "{",
            "{'a'}",
            "[1,]",
            "'x",
            "{'a':1,'a':2}",
            "1 2",
            "'\\u0000'",
            "-",
            &deep,
        ] {
            assert!(parse(bad).is_err(), "{:.20}", bad);
        }
        assert_eq!(Value::List(vec![]).pretty(), "[\n]");
    }
}
