//! Open options as one flat map of dotted names: `file.filename`, `encrypt.key-secret`.

use std::collections::BTreeMap;

use crate::fail;
use crate::report::{Failure, Outcome};
use crate::text::{json, keyval};

/// Dotted names and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// From `key=value,...`; the first part may be a bare file name.
    pub fn from_keyval(text: &str) -> Self {
        Self(keyval::parse(text, Some("file")).into_iter().collect())
    }

    /// From the text behind `json:`.
    ///
    /// # Errors
    /// For anything but a JSON object.
    pub fn from_json(text: &str) -> Outcome<Self> {
        match json::parse(text) {
            Ok(value @ json::Value::Object(_)) => Ok(Self(value.flatten().into_iter().collect())),
            Ok(_) => fail!("Invalid JSON object given"),
            Err(error) => Err(Failure::new(error).context("Could not parse the JSON options: ")),
        }
    }

    /// The value, which stays.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value, taken out.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A switch, taken out.
    ///
    /// # Errors
    /// For anything but `on` and `off`.
    pub fn take_switch(&mut self, name: &str) -> Outcome<Option<bool>> {
        self.take(name)
            .map(|value| crate::options::switch(name, &value))
            .transpose()
    }

    /// A size, taken out.
    ///
    /// # Errors
    /// For anything but a size.
    pub fn take_size(&mut self, name: &str) -> Outcome<Option<u64>> {
        self.take(name)
            .map(|value| crate::options::sized(name, &value))
            .transpose()
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Sets a value unless there is one.
    pub fn set_default(&mut self, name: &str, value: impl Into<String>) {
        self.0
            .entry(name.to_owned())
            .or_insert_with(|| value.into());
    }

    /// All options below `name.`, taken out, without that prefix.
    pub fn take_below(&mut self, name: &str) -> Self {
        let prefix = format!("{name}.");
        let below: Vec<_> = self
            .0
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect();
        let take = |key: String| Some((key[prefix.len()..].to_owned(), self.0.remove(&key)?));
        Self(below.into_iter().filter_map(take).collect())
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names that are left, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds all of `other`, which win over what is there.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Fails if an option is left that the driver `driver` did not take.
    ///
    /// # Errors
    /// Naming the first one.
    pub fn finish(&self, kind: &str, driver: &str) -> Outcome<()> {
        match self.names().next() {
            Some(name) => {
                fail!("Block {kind} '{driver}' does not support the option '{name}'")
            }
            None => Ok(()),
        }
    }

    /// The tree of objects that the dotted names describe, values as text.
    pub fn to_json(&self) -> json::Value {
        let mut root = Vec::new();
        for (name, value) in &self.0 {
            insert(&mut root, name, value);
        }
        json::Value::Object(root)
    }
}

fn insert(members: &mut Vec<(String, json::Value)>, name: &str, value: &str) {
    let Some((head, rest)) = name.split_once('.') else {
        members.push((name.to_owned(), value.into()));
        return;
    };
    let at = members
        .iter()
        .position(|(key, _)| key == head)
        .unwrap_or_else(|| {
            members.push((head.to_owned(), json::Value::Object(Vec::new())));
            members.len() - 1
        });
    if let json::Value::Object(below) = &mut members[at].1 {
        insert(below, rest, value);
    }
}
