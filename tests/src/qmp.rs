//! The control socket of a `strata` in level 1.

use std::collections::VecDeque;

use serde_json::{Value, json};
use strata_lab::Process;

use crate::level1::{Level1, PATIENCE, ok};

/// A client that has negotiated.
pub struct Qmp {
    process: Process,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to the socket at `path` in level 1, as soon as it is there. `pipe` is the program
    /// that passes bytes through, this package's `unix-pipe`.
    #[track_caller]
    pub fn connect(level1: &Level1, path: &str, pipe: &[u8]) -> Self {
        level1.put("/bin/unix-pipe", 0o755, pipe);
        level1.sh(&format!("until [ -S {path} ]; do usleep 10000; done"));
        let mut client = Self {
            process: level1.spawn(&["unix-pipe", path], None),
            events: VecDeque::new(),
        };
        assert!(client.line()["QMP"].is_object());
        client.run("qmp_capabilities", json!({}));
        client
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let line = ok(self.process.wait_for("\r\n", PATIENCE));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// What a command returns that must succeed.
    #[track_caller]
    pub fn run(&mut self, name: &str, arguments: Value) -> Value {
        let command = json!({ "execute": name, "arguments": arguments });
        ok(self.process.write(format!("{command}\n").as_bytes()));
        loop {
            let message = self.line();
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(answer) = message.get("return") {
                return answer.clone();
            } else {
                panic!("{command}: {message}");
            }
        }
    }

    /// Waits for an event, and gives what goes with it. Those before it are forgotten.
    #[track_caller]
    pub fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let next = self.events.pop_front();
            let next = next.unwrap_or_else(|| self.line());
            if next["event"] == event {
                return next["data"].clone();
            }
        }
    }
}
