//! A client of the control socket that knows nothing of the server.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::PATIENCE;

/// A client that has negotiated.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects as soon as the socket is there.
    pub fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
            events: VecDeque::new(),
        };
        assert!(client.line().unwrap()["QMP"]["version"].is_object());
        client.run("qmp_capabilities", json!({}));
        client
    }

    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The answer to a command.
    pub fn ask(&mut self, name: &str, arguments: Value) -> Value {
        let command = json!({ "execute": name, "arguments": arguments, "id": name });
        // In one piece: after the brace that ends a `quit`, nobody may be there for the newline.
        let line = format!("{command}\n");
        self.stream.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let message = self.line().unwrap_or_else(|| panic!("the server has left"));
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else {
                assert_eq!(message["id"], name);
                return message;
            }
        }
    }

    /// What a command returns that must succeed.
    pub fn run(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.ask(name, arguments.clone());
        match answer.get("return") {
            Some(answer) => answer.clone(),
            None => panic!("{name} {arguments}: {answer}"),
        }
    }

    /// What a command says that must fail.
    pub fn refused(&mut self, name: &str, arguments: Value) -> String {
        let answer = self.ask(name, arguments.clone());
        match answer["error"]["desc"].as_str() {
            Some(desc) => desc.to_owned(),
            None => panic!("{name} {arguments}: {answer}"),
        }
    }

    /// Waits for an event, and gives what goes with it. Those before it are forgotten.
    pub fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let next = self.events.pop_front().or_else(|| self.line());
            let next = next.unwrap_or_else(|| panic!("no {event}"));
            if next["event"] == event {
                assert!(next["timestamp"]["seconds"].as_i64().unwrap() > 0);
                return next["data"].clone();
            }
        }
    }

    /// Waits for the server to close the stream.
    pub fn wait_for_end(&mut self) {
        while self.line().is_some() {}
    }
}
