//! The percentage that `-p` shows, and that a SIGUSR1 asks for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{out, report, sys};

/// How far a command is. Any thread may report.
pub struct Progress {
    shown: bool,
    /// Hundredths of a percent between two prints.
    step: u64,
    last: AtomicU64,
}

impl Progress {
    /// Starts at zero; prints whenever `step` percent have been done, if `shown`.
    pub fn new(shown: bool, step: u64) -> Self {
        sys::catch_usr1();
        let progress = Self {
            shown,
            step: step * 100,
            last: AtomicU64::new(0),
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
        let last = self.last.load(Ordering::Relaxed);
        let due = now >= last + self.step || (now == 10_000 && last != now);
        let won = || {
            self.last
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        if due && won() {
            self.print(now);
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
