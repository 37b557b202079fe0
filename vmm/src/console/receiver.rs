//! Who takes what is typed.

use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::net::UnixStream;

use event_manager::{EventSet, Events};

/// A console's input side.
pub trait Receiver {
    /// Takes bytes; returns how many it took. When those are less, [`room`](Self::room) tells when
    /// it takes more.
    fn receive(&self, bytes: &[u8]) -> usize;

    /// What to watch to learn that there is room again.
    fn room(&self) -> Events;

    /// There is room: the event is seen.
    fn take_room(&self);
}

/// The virtio console's: the end of a pair of sockets, of which its worker reads the other one.
impl Receiver for UnixStream {
    fn receive(&self, bytes: &[u8]) -> usize {
        let mut stream = self;
        match stream.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            // Nobody will ever read them.
            Err(_) => bytes.len(),
        }
    }

    fn room(&self) -> Events {
        // By edges: there is room most of the time.
        Events::new(self, EventSet::OUT | EventSet::EDGE_TRIGGERED)
    }

    fn take_room(&self) {}
}
