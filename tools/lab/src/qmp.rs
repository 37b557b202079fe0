//! As much of QEMU's control protocol as saving and restoring take.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Qmp {
    /// Takes over a connection whose other end QEMU holds.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let output = stream
            .try_clone()
            .map_err(Error::file("share", "QEMU's control socket"))?;
        let mut qmp = Self {
            input: BufReader::new(stream),
            output,
        };
        qmp.call("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    pub(crate) fn call(&mut self, command: &'static str, arguments: Value) -> Result<Value> {
        let lost = || Error::Qmp {
            command,
            reply: "nothing: it has closed the connection".into(),
        };
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        writeln!(self.output, "{request}").map_err(|_| lost())?;
        loop {
            let mut line = String::new();
            if self.input.read_line(&mut line).map_err(|_| lost())? == 0 {
                return Err(lost());
            }
            let mut reply: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
            if reply.get("error").is_some() {
                return Err(Error::Qmp {
                    command,
                    reply: line,
                });
            }
        }
    }

    /// Asks with `command` every 20 ms until `done` likes the answer.
    pub(crate) fn wait(
        &mut self,
        command: &'static str,
        limit: Duration,
        done: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let reply = self.call(command, Value::Null)?;
            if done(&reply) {
                return Ok(());
            }
            if Instant::now() > deadline || reply["status"] == "failed" {
                return Err(Error::Qmp {
                    command,
                    reply: reply.to_string(),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
