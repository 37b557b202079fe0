//! Finding the messages in a stream of bytes.
//!
//! A message is a JSON object; where it ends is found by its brackets, so that several may stand on
//! a line, and one on several lines. Texts in single quotes are taken too, as QEMU takes them.

/// Bytes of the largest message. A longer one is refused, and what follows it is read.
pub const MAX_MESSAGE: usize = 1 << 20;

/// How deep a message may be nested.
pub const MAX_DEPTH: usize = 64;

/// A client that has lost its place sends this byte, which is in no text of UTF-8, to start anew.
const START_ANEW: u8 = 0xff;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Something between messages that begins none.
    Stray,
    /// The client starts anew.
    Restart,
    /// More than [`MAX_MESSAGE`] bytes.
    TooLong,
    /// More than [`MAX_DEPTH`] levels.
    TooDeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages.
    Between,
    /// In what is no message, to its end.
    Stray,
    /// In a message, but in none of its texts.
    Message,
    /// In a text that ends with this quote.
    Text(u8),
    /// Behind a backslash in such a text.
    Escape(u8),
}

/// Cuts a stream into messages, and keeps no more than one of them.
#[derive(Debug)]
pub(crate) struct Framer {
    state: State,
    depth: usize,
    bytes: Vec<u8>,
    /// What is wrong with the message, which is read to its end and not kept.
    fault: Option<Fault>,
}

impl Framer {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Between,
            depth: 0,
            bytes: Vec::new(),
            fault: None,
        }
    }

    /// Takes the next byte, and gives a message or a fault that ends with it.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Result<Vec<u8>, Fault>> {
        if byte == START_ANEW {
            *self = Self::new();
            return Some(Err(Fault::Restart));
        }
        match self.state {
            State::Between | State::Stray => self.between(byte),
            State::Message => self.message(byte),
            State::Text(quote) => {
                self.text(byte, quote);
                None
            }
            State::Escape(quote) => {
                self.escape(byte);
                self.state = State::Text(quote);
                None
            }
        }
    }

    fn between(&mut self, byte: u8) -> Option<Result<Vec<u8>, Fault>> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => self.state = State::Between,
            b'{' | b'[' => {
                self.state = State::Message;
                self.message(byte);
            }
            _ if self.state == State::Between => {
                self.state = State::Stray;
                return Some(Err(Fault::Stray));
            }
            _ => {}
        }
        None
    }

    fn message(&mut self, byte: u8) -> Option<Result<Vec<u8>, Fault>> {
        match byte {
            b'"' | b'\'' => {
                self.keep(b'"');
                self.state = State::Text(byte);
                return None;
            }
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    self.spoil(Fault::TooDeep);
                }
            }
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.keep(byte);
        (self.depth == 0).then(|| self.end())
    }

    fn text(&mut self, byte: u8, quote: u8) {
        match byte {
            b'\\' => self.state = State::Escape(quote),
            _ if byte == quote => {
                self.keep(b'"');
                self.state = State::Message;
            }
            b'"' => {
                self.keep(b'\\');
                self.keep(b'"');
            }
            _ => self.keep(byte),
        }
    }

    /// A single quote needs no backslash in the double ones that all texts get.
    fn escape(&mut self, byte: u8) {
        if byte != b'\'' {
            self.keep(b'\\');
        }
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        if self.bytes.len() >= MAX_MESSAGE {
            self.spoil(Fault::TooLong);
        }
        if self.fault.is_none() {
            self.bytes.push(byte);
        }
    }

    fn spoil(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.bytes = Vec::new();
    }

    fn end(&mut self) -> Result<Vec<u8>, Fault> {
        let ended = std::mem::replace(self, Self::new());
        ended.fault.map_or(Ok(ended.bytes), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Result<String, Fault>> {
        let mut framer = Framer::new();
        let frames = bytes.iter().filter_map(|byte| framer.push(*byte));
        frames
            .map(|frame| frame.map(|bytes| String::from_utf8(bytes).unwrap()))
            .collect()
    }

    fn good(text: &str) -> Result<String, Fault> {
        Ok(text.to_owned())
    }

    #[test]
    fn messages_end_with_their_brackets() {
        assert_eq!(all(b"{}{ } [1]"), [good("{}"), good("{ }"), good("[1]")]);
        assert_eq!(
            all(b"{\"a\":\n[\"}]\\\"{\"\r\n]}{"),
            [good("{\"a\":\n[\"}]\\\"{\"\r\n]}")]
        );
    }

    #[test]
    fn single_quotes_become_double_ones() {
        assert_eq!(
            all(br#"{'a"b': 'it\'s \n', "c'": "\'"}"#),
            [good(r#"{"a\"b": "it's \n", "c'": "'"}"#)]
        );
    }

    #[test]
    fn what_is_no_message_is_one_fault() {
        assert_eq!(
            all(b"hello {} , }}\n{}"),
            [
                Err(Fault::Stray),
                good("{}"),
                Err(Fault::Stray),
                Err(Fault::Stray),
                good("{}")
            ]
        );
        assert_eq!(all(b"x{}"), [Err(Fault::Stray), good("{}")]);
    }

    #[test]
    fn a_client_can_start_anew_anywhere() {
        assert_eq!(all(b"{\"a\": \"\xff{}"), [Err(Fault::Restart), good("{}")]);
    }

    #[test]
    fn what_is_too_much_is_read_over_and_not_kept() {
        let deep = |levels| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert_eq!(all(&deep(MAX_DEPTH)).len(), 1);
        assert!(all(&deep(MAX_DEPTH))[0].is_ok());
        let mut bytes = deep(MAX_DEPTH + 1);
        bytes.extend(b"{}");
        assert_eq!(all(&bytes), [Err(Fault::TooDeep), good("{}")]);

        let long = |size: usize| [b"{\"", &*vec![b'x'; size - 4], b"\"}"].concat();
        assert!(all(&long(MAX_MESSAGE))[0].is_ok());
        let mut framer = Framer::new();
        for byte in long(MAX_MESSAGE + 1) {
            assert!(framer.bytes.len() <= MAX_MESSAGE);
            if let Some(frame) = framer.push(byte) {
                assert_eq!(frame, Err(Fault::TooLong));
            }
        }
        assert_eq!(framer.state, State::Between);
    }
}
