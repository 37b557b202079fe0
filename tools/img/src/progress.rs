//! The percentage that `-p` shows, and that a SIGUSR1 asks for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{out, report, sys};

/// How far a command is. Any thread may report.
pub struct Progress {
    shown: bool,
    /// Hundredths of a percent between two prints.
    step: u64,
    last: AtomicU64,
    /// Held while printing.
    turn: Mutex<()>,
}

impl Progress {
    /// Starts at zero; prints whenever `step` percent have been done, if `shown`.
    pub fn new(shown: bool, step: u64) -> Self {
        sys::catch_usr1();
        let progress = Self {
            shown,
            step: step * 100,
            last: AtomicU64::new(0),
            turn: Mutex::new(()),
        };
        progress.print(0);
        progress
    }

    /// Whether somebody wants to see how far the work is: finding out may take a while.
    pub fn wanted(&self) -> bool {
        self.shown || sys::usr1()
    }

    /// `done` of `total` units are done.
    pub fn at(&self, done: u64, total: u64) {
        if total == 0 {
            return;
        }
        let now = (u128::from(done.min(total)) * 10_000 / u128::from(total)) as u64;
        if sys::take_usr1() {
            report::note(format_args!("    ({})", percent(now)));
        }
        self.advance(now, |now| self.print(now));
    }

    /// Prints if it is time to; what is printed never goes back, whoever reports.
    fn advance(&self, now: u64, print: impl FnOnce(u64)) {
        let due = || {
            let last = self.last.load(Ordering::Relaxed);
            now >= last + self.step || (now == 10_000 && last != now)
        };
        // Every block that is copied comes here: most need no lock to see that it is not time yet.
        if !due() {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if due() {
            self.last.store(now, Ordering::Relaxed);
            print(now);
        }
    }

    /// All is done.
    pub fn finish(&self) {
        self.at(1, 1);
    }

    fn print(&self, hundredths: u64) {
        if self.shown {
            out!("    ({})\r", percent(hundredths));
            report::flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            out!("\n");
        }
    }
}

fn percent(hundredths: u64) -> String {
    format!("{}.{:02}/100%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_that_report_at_once_do_not_go_back() {
        let progress = Progress::new(false, 1);
        let printed = Mutex::new(Vec::new());
        let add = |now| {
            printed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(now)
        };
        thread::scope(|scope| {
            let (started, first) = std::sync::mpsc::channel();
            let (progress, add) = (&progress, &add);
            scope.spawn(move || {
                progress.advance(4000, |now| {
                    // The other one is there before this is printed.
                    let _ = started.send(());
                    thread::sleep(Duration::from_millis(100));
                    add(now);
                });
            });
            let _ = first.recv();
            progress.advance(10_000, add);
        });
        let printed = printed.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(printed, [4000, 10_000]);
    }
}
