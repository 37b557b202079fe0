//! What is said between a server and one client, without the stream that carries it.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::commands::{self, Commands};
use crate::error::{Class, Error};
use crate::framer::{Fault, Framer, MAX_DEPTH, MAX_MESSAGE};

/// A client's state: where its message is, and whether it has negotiated.
#[derive(Debug)]
pub(crate) struct Session {
    framer: Framer,
    negotiated: bool,
}

/// A message with its end of line: that of QEMU, which some clients read up to.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    // Maps with text keys and numbers always have a text.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.extend(b"\r\n");
    line
}

/// What the server says first.
pub(crate) fn greeting<H>(commands: &Commands<H>) -> Vec<u8> {
    line(&json!({
        "QMP": { "version": commands.version().to_json(), "capabilities": [] }
    }))
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            framer: Framer::new(),
            negotiated: false,
        }
    }

    /// Whether the client has negotiated: before, it gets no event.
    pub(crate) fn has_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Takes the next byte, and answers the message that ends with it.
    pub(crate) fn push<H>(
        &mut self,
        byte: u8,
        commands: &Commands<H>,
        handler: &mut H,
        out: &mut VecDeque<u8>,
    ) {
        let answer = match self.framer.push(byte) {
            None => return,
            Some(Ok(bytes)) => self.answer(&bytes, commands, handler),
            Some(Err(fault)) => failed(&no_message(fault), None),
        };
        out.extend(line(&answer));
    }

    fn answer<H>(&mut self, bytes: &[u8], commands: &Commands<H>, handler: &mut H) -> Value {
        let message = match serde_json::from_slice(bytes) {
            Ok(Value::Object(message)) => message,
            Ok(_) => {
                return failed(&Error::generic("QMP input must be a JSON object"), None);
            }
            Err(error) => {
                let error = Error::generic(format_args!("JSON parse error, {error}"));
                return failed(&error, None);
            }
        };
        let mut message: Map<String, Value> = message;
        let id = message.remove("id");
        match self.run(message, commands, handler) {
            Ok(answer) => with_id(json!({ "return": answer }), id),
            Err(error) => failed(&error, id),
        }
    }

    fn run<H>(
        &mut self,
        mut message: Map<String, Value>,
        commands: &Commands<H>,
        handler: &mut H,
    ) -> Result<Value, Error> {
        let name = match message.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(Error::generic(
                    "QMP input member 'execute' must be a string",
                ));
            }
            None => return Err(Error::generic("QMP input lacks member 'execute'")),
        };
        let arguments = match message.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => {
                return Err(Error::generic(
                    "QMP input member 'arguments' must be an object",
                ));
            }
        };
        if let Some(key) = message.keys().next() {
            let key: String = key.chars().take(64).collect();
            return Err(Error::generic(format_args!(
                "QMP input member '{key}' is unexpected"
            )));
        }
        match (self.negotiated, name.as_str()) {
            (false, commands::NEGOTIATE) => self.negotiate(&arguments),
            (false, _) => Err(Error::new(
                Class::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            )),
            (true, commands::NEGOTIATE) => Err(Error::new(
                Class::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored",
            )),
            (true, name) => commands.run(handler, name, arguments),
        }
    }

    /// No capability is offered, so none can be asked for.
    fn negotiate(&mut self, arguments: &Map<String, Value>) -> Result<Value, Error> {
        for (key, value) in arguments {
            match (key.as_str(), value) {
                ("enable", Value::Array(wanted)) if wanted.is_empty() => {}
                ("enable", Value::Array(_)) => {
                    return Err(Error::generic("this server has none of the capabilities"));
                }
                _ => {
                    return Err(Error::generic(
                        "'enable' and a list of capabilities is all \
                        that 'qmp_capabilities' takes",
                    ));
                }
            }
        }
        self.negotiated = true;
        Ok(json!({}))
    }
}

fn no_message(fault: Fault) -> Error {
    Error::generic(match fault {
        Fault::Stray => "JSON parse error, a message is an object in curly brackets".to_owned(),
        Fault::Restart => "JSON parse error, the input starts anew".to_owned(),
        Fault::TooLong => format!("a message has at most {MAX_MESSAGE} bytes"),
        Fault::TooDeep => format!("a message is nested at most {MAX_DEPTH} levels deep"),
    })
}

fn failed(error: &Error, id: Option<Value>) -> Value {
    with_id(json!({ "error": error.to_json() }), id)
}

fn with_id(mut answer: Value, id: Option<Value>) -> Value {
    if let (Value::Object(answer), Some(id)) = (&mut answer, id) {
        answer.insert("id".to_owned(), id);
    }
    answer
}
