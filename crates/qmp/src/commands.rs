//! The table of commands.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Class, Error};

/// The version that a server says it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and micro. Clients find them below the key `qemu`, whoever the server is.
    pub number: [u32; 3],
    /// The program, in words.
    pub package: String,
}

impl Version {
    pub(crate) fn to_json(&self) -> Value {
        let [major, minor, micro] = self.number;
        json!({
            "qemu": { "major": major, "minor": minor, "micro": micro },
            "package": self.package,
        })
    }
}

/// The arguments of a command that takes none.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

type Run<H> = Box<dyn Fn(&mut H, Map<String, Value>) -> Result<Value, Error>>;

/// The commands of a server; `H` is what they work on, which lives elsewhere.
///
/// `query-commands` and `query-version` are there from the start, and each client has
/// `qmp_capabilities`.
pub struct Commands<H> {
    version: Version,
    table: BTreeMap<&'static str, Run<H>>,
}

/// The command that ends the negotiation.
pub(crate) const NEGOTIATE: &str = "qmp_capabilities";
const QUERY_COMMANDS: &str = "query-commands";
const QUERY_VERSION: &str = "query-version";

impl<H> std::fmt::Debug for Commands<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands")
            .field("version", &self.version)
            .field("names", &self.names())
            .finish()
    }
}

impl<H> Commands<H> {
    /// A table with nothing but its own commands.
    pub fn new(version: Version) -> Self {
        let table = BTreeMap::new();
        Self { version, table }
    }

    /// Adds a command, or puts another in its place. Its arguments are read as `A`, whose error
    /// becomes the answer; `R` is its answer, where `()` stands for an empty object.
    #[must_use]
    pub fn with<A, R>(
        mut self,
        name: &'static str,
        run: impl Fn(&mut H, A) -> Result<R, Error> + 'static,
    ) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
    {
        let run = move |handler: &mut H, arguments| {
            let arguments = A::deserialize(Value::Object(arguments))
                .map_err(|error| Error::generic(format_args!("{name}: {error}")))?;
            let answer = serde_json::to_value(run(handler, arguments)?).map_err(Error::generic)?;
            Ok(match answer {
                Value::Null => json!({}),
                answer => answer,
            })
        };
        self.table.insert(name, Box::new(run));
        self
    }

    /// The version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The names of all commands, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        let own = [NEGOTIATE, QUERY_COMMANDS, QUERY_VERSION];
        let mut names: Vec<_> = self.table.keys().copied().chain(own).collect();
        names.sort_unstable();
        names
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`Class::CommandNotFound`]; arguments that are not the command's; its own.
    pub fn run(
        &self,
        handler: &mut H,
        name: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, Error> {
        if let Some(run) = self.table.get(name) {
            return run(handler, arguments);
        }
        let answer = match name {
            QUERY_COMMANDS => {
                let names = self.names().into_iter();
                names.map(|name| json!({ "name": name })).collect()
            }
            QUERY_VERSION => self.version.to_json(),
            _ => return Err(not_found(name)),
        };
        match arguments.keys().next() {
            Some(key) => Err(Error::generic(format_args!(
                "Parameter '{key}' is unexpected"
            ))),
            None => Ok(answer),
        }
    }
}

pub(crate) fn not_found(name: &str) -> Error {
    // A name may be as long as a message.
    let name: String = name.chars().take(64).collect();
    Error::new(
        Class::CommandNotFound,
        format_args!("The command {name} has not been found"),
    )
}
