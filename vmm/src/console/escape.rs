//! Ctrl-A commands on an interactive console, as `screen` and QEMU's `-nographic` have them.

/// What [`Escape::filter`] found the person to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ctrl-A X: leave the console and end the machine.
    Leave,
    /// Ctrl-A H: print what Ctrl-A can do.
    Help,
}

/// The text that Ctrl-A H prints.
pub const HELP: &str = "\r\n\
    Ctrl-A X       end the machine and leave\r\n\
    Ctrl-A H       this help\r\n\
    Ctrl-A Ctrl-A  send a Ctrl-A to the guest\r\n";

const CTRL_A: u8 = 1;

/// Takes Ctrl-A sequences out of what is typed.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Appends to `to_guest` what of `typed` is meant for the guest, and returns the first
    /// command found. Bytes behind [`Command::Leave`] are dropped.
    pub fn filter(&mut self, typed: &[u8], to_guest: &mut Vec<u8>) -> Option<Command> {
        let mut command = None;
        for &byte in typed {
            if !self.pending {
                if byte == CTRL_A {
                    self.pending = true;
                } else {
                    to_guest.push(byte);
                }
                continue;
            }
            self.pending = false;
            match byte {
                b'x' | b'X' => return Some(Command::Leave),
                b'h' | b'H' | b'?' => command = Some(Command::Help),
                CTRL_A | b'a' => to_guest.push(CTRL_A),
                other => to_guest.extend([CTRL_A, other]),
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(chunks: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let mut escape = Escape::default();
        let (mut out, mut commands) = (Vec::new(), Vec::new());
        for chunk in chunks {
            commands.extend(escape.filter(chunk, &mut out));
        }
        (out, commands)
    }

    #[test]
    fn plain_bytes_pass() {
        assert_eq!(run(&[b"ls\r", b"\x03"]), (b"ls\r\x03".to_vec(), vec![]));
    }

    #[test]
    fn leave_is_found_across_reads() {
        assert_eq!(
            run(&[b"a\x01", b"x"]),
            (b"a".to_vec(), vec![Command::Leave])
        );
        assert_eq!(run(&[b"\x01Xrest"]), (vec![], vec![Command::Leave]));
    }

    #[test]
    fn a_doubled_ctrl_a_reaches_the_guest_once() {
        assert_eq!(run(&[b"\x01\x01", b"\x01a"]), (vec![1, 1], vec![]));
    }

    #[test]
    fn an_unknown_command_is_not_swallowed() {
        assert_eq!(run(&[b"\x01z"]), (vec![1, b'z'], vec![]));
    }

    #[test]
    fn help_does_not_hide_what_follows() {
        assert_eq!(run(&[b"\x01hls"]), (b"ls".to_vec(), vec![Command::Help]));
    }
}
