//! `key=value,...` texts of the command line, read as the tables of a configuration file are.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// What can be said as `key=value,key=value` and as a table.
pub(crate) trait Options: DeserializeOwned {
    /// The keys of first parts that have none, as the size in `1G,hugepages=2M`.
    const HEADS: &'static [&'static str];

    /// The keys that may be said more than once.
    const LISTS: &'static [&'static str] = &[];

    /// What it is, for messages.
    const WHAT: &'static str;

    /// Checks what no single value can be blamed for.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Fills in what follows from what was said.
    fn fill(&mut self) {}
}

/// Whether a limit lets anything pass.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn check_limit(name: &str, limit: Option<u64>) -> Result<(), String> {
    match limit {
        Some(0) => Err(format!("{name}=0 lets nothing pass; leave it out")),
        _ => Ok(()),
    }
}

/// How many queues there are where nothing is said.
pub(super) fn one() -> u16 {
    1
}

/// Whether a name may be one of a device or node: a letter, then letters, digits, `-`, `.` and `_`,
/// as QEMU has it, and not too long for a message.
///
/// # Errors
/// A sentence that says so.
pub(crate) fn check_id(id: &str) -> Result<(), String> {
    let mut chars = id.chars();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.all(fits) && id.len() <= 63 {
        return Ok(());
    }
    Err(
        "a name begins with a letter and goes on with letters, digits, '-', '.' and '_', 63 at most"
            .to_owned(),
    )
}

/// Reads the command line's text. A comma within a value is doubled, as QEMU's users know it.
pub(super) fn parse<T: Options>(text: &str) -> Result<T, String> {
    table::<T>(text)
        .and_then(from_table)
        .map_err(|reason| format!("{}: {reason}", T::WHAT))
}

/// Reads a table: that of a text, a file, or a command to a running machine. All come this way, so
/// that they say the same, and the schema is compiled once.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub(crate) fn from_table<T: Options>(table: Map<String, Value>) -> Result<T, String> {
    let table = Value::Object(table);
    let mut options = T::deserialize(&table).map_err(|error| {
        let said = error.to_string();
        explain(&said, &blamed::<T>(&table, &said).unwrap_or_default())
    })?;
    options.check()?;
    options.fill();
    Ok(options)
}

/// The key without which there is another error, or none. Before the first that is wrong there are
/// only keys that `T` has, so that few are tried.
fn blamed<T: Options>(table: &Value, said: &str) -> Option<String> {
    let (key, value) = table.as_object()?.iter().find(|(key, _)| {
        let mut others = table.clone();
        others
            .as_object_mut()
            .and_then(|others| others.remove(*key));
        T::deserialize(&others)
            .err()
            .is_none_or(|error| error.to_string() != said)
    })?;
    // Of a table within, the switch that is none.
    let mut inner = value.as_object().into_iter().flatten();
    Some(match inner.find(|(_, value)| value.as_bool().is_some()) {
        Some((name, _)) => format!("{key}.{name}"),
        None => key.clone(),
    })
}

/// serde's words in those of a command line.
fn explain(said: &str, key: &str) -> String {
    let list = |rest: &str, before: &str| {
        let rest = rest.replace(", expected one of ", before);
        rest.replace(", expected ", before)
    };
    if said.starts_with("invalid type: boolean `true`") {
        format!("{key} needs a value: {key}=..")
    } else if let Some(rest) = said.strip_prefix("unknown field ") {
        format!("there is no option {}", list(rest, "; the options are "))
    } else if let Some(rest) = said.strip_prefix("unknown variant ") {
        format!("{key} can not be {}", list(rest, "; it is one of "))
    } else if let Some(name) = said.strip_prefix("missing field ") {
        format!("{name} is missing")
    } else if let Some(name) = said.strip_prefix("duplicate field ") {
        format!("{name} is said twice")
    } else if key.is_empty() {
        said.to_owned()
    } else {
        format!("{key}: {said}")
    }
}

fn table<T: Options>(text: &str) -> Result<Map<String, Value>, String> {
    let mut table = Map::new();
    let mut heads = T::HEADS.iter();
    for part in split(text) {
        let (key, value) = match (part.split_once('='), heads.next()) {
            (Some((key, value)), _) => {
                heads = [].iter();
                (key, Value::from(value))
            }
            (None, Some(head)) => (*head, Value::from(part.as_str())),
            // What is missing is said better by who wants it.
            (None, _) if text.is_empty() => break,
            (None, _) if part.is_empty() => {
                return Err(format!("an option in \"{text}\" is empty"));
            }
            // A switch that is only named is on. What is none needs a value.
            (None, _) => (part.as_str(), Value::Bool(true)),
        };
        // A dot leads into a table within, as in TOML.
        let (inner, name) = match key.split_once('.') {
            Some((outer, name)) => match table.entry(outer).or_insert_with(|| Map::new().into()) {
                Value::Object(inner) => (inner, name),
                _ => return Err(format!("{outer} is said twice")),
            },
            None => (&mut table, key),
        };
        match inner.entry(name).or_insert(Value::Null) {
            new @ Value::Null if T::LISTS.contains(&key) => *new = vec![value].into(),
            new @ Value::Null => *new = value,
            Value::Array(list) => list.push(value),
            _ => return Err(format!("{key} is said twice")),
        }
    }
    Ok(table)
}

/// The parts between single commas, with double ones made single.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// Reads either way of saying it in a file: the command line's text, or a table.
pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Options,
{
    deserializer.deserialize_any(TextOrTable(PhantomData))
}

/// [`deserialize`] for what may be left out.
pub(super) fn deserialize_option<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Options,
{
    deserialize(deserializer).map(Some)
}

/// [`deserialize`] for each of a list.
pub(super) fn deserialize_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Options,
{
    struct Item<T>(T);
    impl<'de, T: Options> Deserialize<'de> for Item<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserialize(deserializer).map(Self)
        }
    }
    let items = Vec::<Item<T>>::deserialize(deserializer)?;
    Ok(items.into_iter().map(|item| item.0).collect())
}

struct TextOrTable<T>(PhantomData<T>);

impl<'de, T: Options> Visitor<'de> for TextOrTable<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: a text of key=value, or a table", T::WHAT)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut table = Map::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if table.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{key} is said twice")));
            }
            table.insert(key, value);
        }
        from_table(table).map_err(A::Error::custom)
    }
}

/// A value that a table may say by its own type, and a text says as it is printed.
pub(super) fn value<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    struct AnyOf<T>(PhantomData<T>);
    impl<T: FromText> Visitor<'_> for AnyOf<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).map_err(E::custom)
        }

        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<T, E> {
            if !T::IS_SWITCH {
                return Err(E::invalid_type(Unexpected::Bool(value), &self));
            }
            self.visit_str(if value { "on" } else { "off" })
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }
    }
    deserializer.deserialize_any(AnyOf(PhantomData))
}

/// [`value`] for what may be left out, or be null.
pub(super) fn some<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    struct Item<T>(T);
    impl<'de, T: FromText> Deserialize<'de> for Item<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            value(deserializer).map(Self)
        }
    }
    Ok(Option::<Item<T>>::deserialize(deserializer)?.map(|item| item.0))
}

/// Prints a value as [`FromText`] reads it.
pub(super) fn print<S, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
    T: fmt::Display,
{
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// What [`value`] reads.
pub(super) trait FromText: Sized {
    /// What should stand there.
    const EXPECTED: &'static str;

    /// Whether it is on where it is only named.
    const IS_SWITCH: bool = false;

    /// Reads it, or says what should stand there.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for bool {
    const EXPECTED: &'static str = "on or off";
    const IS_SWITCH: bool = true;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "on" | "true" | "yes" => Ok(true),
            "off" | "false" | "no" => Ok(false),
            _ => Err(format!("on or off should stand there, not \"{text}\"")),
        }
    }
}

/// Reads a switch of the command line.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    bool::from_text(text)
}

macro_rules! from_text_by_parsing {
    ($($type:ty),*) => {$(
        impl FromText for $type {
            const EXPECTED: &'static str = "a number";

            fn from_text(text: &str) -> Result<Self, String> {
                <$type>::from_str(text).map_err(|_| {
                    format!("a number from {} to {} should stand there, not \"{text}\"", Self::MIN, Self::MAX)
                })
            }
        }
    )*};
}

from_text_by_parsing!(u16, u64, i32);

impl FromText for String {
    const EXPECTED: &'static str = "a text";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// Gives a type with [`Options`] the command line's way in.
macro_rules! options {
    ($type:ty) => {
        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                crate::config::options::parse(text)
            }
        }
    };
}
pub(super) use options;

/// Lets files hold a type as the command line has it: in one text.
macro_rules! text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use text;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        name: String,
        #[serde(default, deserialize_with = "some")]
        count: Option<u16>,
        #[serde(default, deserialize_with = "value")]
        bright: bool,
    }

    impl Options for Thing {
        const HEADS: &'static [&'static str] = &["name"];
        const WHAT: &'static str = "thing";
    }

    options!(Thing);

    #[test]
    fn texts_and_tables_say_the_same() {
        let thing = |name: &str, count, bright| Thing {
            name: name.to_owned(),
            count,
            bright,
        };
        for (text, expected) in [
            ("lamp", thing("lamp", None, false)),
            ("lamp,bright", thing("lamp", None, true)),
            (
                "name=a,,b=c,count=7,bright=off",
                thing("a,b=c", Some(7), false),
            ),
        ] {
            assert_eq!(text.parse::<Thing>().unwrap(), expected, "{text}");
        }
        let table = serde_json::json!({ "name": "lamp", "count": 3, "bright": true });
        assert_eq!(
            deserialize::<_, Thing>(table).unwrap(),
            thing("lamp", Some(3), true)
        );
        let text = serde_json::json!("lamp,count=3");
        assert_eq!(
            deserialize::<_, Thing>(text).unwrap(),
            thing("lamp", Some(3), false)
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            (
                "lamp,colour=red",
                "there is no option `colour`; the options are `name`, `count`, `bright`",
            ),
            ("lamp,count=70000", "0 to 65535"),
            ("lamp,bright=very", "on or off"),
            ("lamp,", "empty"),
            ("lamp,count=3,", "empty"),
            ("count=3", "`name` is missing"),
            ("lamp,count=x,bright", "count: a number"),
            ("lamp,count", "count needs a value: count=.."),
            ("lamp,name=torch", "name is said twice"),
        ] {
            let message = text.parse::<Thing>().unwrap_err();
            assert!(message.contains(needle), "{text}: {message}");
        }
    }
}
