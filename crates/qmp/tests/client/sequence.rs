//! Any bytes, in any pieces, to a client that reads some of what it is sent.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use serde_json::{Value, json};
use strata_qmp::{Client, Commands, Error, Event, Gone, MAX_QUEUE, NoArguments, Version};

/// A stream, held by the client and by the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(Rc<RefCell<Ends>>);

#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// What the client has yet to read.
    pub(crate) input: Vec<u8>,
    /// How much of it comes at once.
    pub(crate) piece: usize,
    /// What the client was sent.
    pub(crate) output: Vec<u8>,
    /// How much it takes yet.
    pub(crate) room: usize,
    /// Nothing more will come.
    pub(crate) ended: bool,
}

impl Pipe {
    pub(crate) fn new(input: &[u8], piece: usize, room: usize) -> Self {
        let input = input.to_vec();
        Self(Rc::new(RefCell::new(Ends {
            input,
            piece,
            room,
            ..Ends::default()
        })))
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Ends) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|ends| {
            let count = ends.input.len().min(buffer.len()).min(ends.piece);
            if count == 0 && !ends.ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            for (to, from) in buffer.iter_mut().zip(ends.input.drain(..count)) {
                *to = from;
            }
            Ok(count)
        })
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|ends| {
            let count = bytes.len().min(ends.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            ends.room -= count;
            ends.output.extend(&bytes[..count]);
            Ok(count)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Commands on a number: how often one of them was run.
pub(crate) fn commands() -> Commands<u64> {
    let version = Version {
        number: [1, 2, 3],
        package: "test".to_owned(),
    };
    Commands::new(version)
        .with("count", |count: &mut u64, _: NoArguments| {
            *count += 1;
            Ok(json!({ "count": *count }))
        })
        .with("echo", |_, arguments: Value| Ok(arguments))
        .with("nothing", |_, _: NoArguments| Ok(()))
        .with("fail", |_, _: NoArguments| {
            Err::<(), _>(Error::device_not_found("x"))
        })
}

/// What a client is sent that says `input` in pieces of `piece` bytes and leaves.
pub(crate) fn talk(input: &[u8], piece: usize) -> Vec<Value> {
    let pipe = Pipe::new(input, piece, usize::MAX);
    pipe.with(|ends| ends.ended = true);
    let (commands, mut count) = (commands(), 0);
    let mut client = Client::new(pipe.clone(), &commands);
    while client.serve(&commands, &mut count).is_ok() {}
    pipe.with(|ends| lines(&ends.output))
}

/// Every line is a message.
pub(crate) fn lines(output: &[u8]) -> Vec<Value> {
    assert!(output.ends_with(b"\r\n"));
    let lines = output.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// However the bytes come and go, the answers are the same; and events do not get between them.
pub(crate) fn run(input: &[u8]) {
    let whole = talk(input, usize::MAX);
    for answer in &whole {
        let kinds = ["QMP", "return", "error"];
        let of_kind = kinds.iter().filter(|kind| answer.get(kind).is_some());
        assert_eq!(of_kind.count(), 1, "{answer}");
    }
    assert_eq!(talk(input, 1), whole);

    let pipe = Pipe::new(input, 7, 0);
    pipe.with(|ends| ends.ended = true);
    let (commands, mut count) = (commands(), 0);
    let mut client = Client::new(pipe.clone(), &commands);
    let event = Event::now("NEWS", Value::Null).line();
    // Twice what all that is sent takes: a client that waits for what does not come is a fault.
    let rounds = input.len() * 400 + MAX_QUEUE;
    for round in 0..rounds {
        pipe.with(|ends| ends.room = 1 + round % 500);
        match client.serve(&commands, &mut count) {
            Ok(wants) => assert!(wants.read || wants.write, "it waits for nothing"),
            Err(Gone::Left) => {
                let mut slow = pipe.with(|ends| lines(&ends.output));
                slow.retain(|line| line.get("event").is_none());
                return assert_eq!(slow, whole);
            }
            Err(error) => panic!("{error}"),
        }
        if round % 16 == 0 {
            assert!(client.tell(&event).is_ok());
        }
    }
    panic!("the client is never done");
}
