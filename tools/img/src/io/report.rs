//! The lines that tell what a request did and how fast.

use std::time::Duration;

use crate::out;
use crate::text::size::exact;

/// A finished request.
pub(super) struct Request {
    /// "read", "wrote" or "discard".
    pub(super) verb: &'static str,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) took: Duration,
}

impl Request {
    /// Prints two lines for people, or one for programs.
    pub(super) fn print(&self, machine: bool) {
        let seconds = self.took.as_secs_f64();
        let (bytes, verb) = (self.length, self.verb);
        let (bandwidth, rate) = (bytes as f64 / seconds, 1.0 / seconds);
        if machine {
            let time = clock(self.took);
            out!("{bytes},1,{time},{bandwidth:.3},{rate:.3}\n");
            return;
        }
        let time = match self.took.as_secs() {
            0 => format!("{seconds:05.2} sec"),
            _ => clock(self.took),
        };
        out!("{verb} {bytes}/{bytes} bytes at offset {}\n", self.offset);
        let (size, bandwidth) = (exact(bytes as f64), exact(bandwidth));
        out!("{size}, 1 ops; {time} ({bandwidth}/sec and {rate:.4} ops/sec)\n");
    }
}

/// Hours, minutes and seconds.
fn clock(time: Duration) -> String {
    let whole = time.as_secs();
    let seconds = (whole % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
    format!("{}:{:02}:{seconds:05.2}", whole / 3600, whole / 60 % 60)
}
