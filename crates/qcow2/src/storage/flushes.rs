//! Flushes of a file in the kernel's page cache.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The flushes of one file, of which one at most is under way.
///
/// Pages that the kernel could not write, be it for an error of the drive or for want of room on it,
/// are clean to it afterwards, and one flush alone is told (fsync(2), and errseq_t in the kernel's
/// documentation). If another one counted, that comes later or was under way on another queue, what
/// is lost would pass for durable. So none counts any more, as with QEMU.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    state: Mutex<State>,
    ended: Condvar,
}

/// Flushes are numbered in the order in which they begin.
#[derive(Debug, Default)]
struct State {
    begun: u64,
    under_way: bool,
    /// The last one that ended well.
    done: u64,
    /// One has failed.
    lossy: bool,
}

impl Flushes {
    /// Flushes by `flush`, or waits for a flush that began after this call: many that wait need one.
    ///
    /// # Errors
    /// That of `flush`, or that an earlier one has failed.
    pub(super) fn run(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let wanted = state.begun + 1;
        while state.under_way {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.lossy {
            return Err(io::Error::other(
                "an earlier flush failed, so what was written before it may be lost: the disk \
                 must be opened anew",
            ));
        }
        if state.done >= wanted {
            return Ok(());
        }
        state.begun += 1;
        state.under_way = true;
        drop(state);
        let result = flush();
        let mut state = self.lock();
        state.under_way = false;
        match result {
            Ok(()) => state.done = state.begun,
            Err(_) => state.lossy = true,
        }
        self.ended.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn fail() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    #[test]
    fn no_flush_counts_after_one_that_failed() {
        let flushes = Flushes::default();
        flushes.run(|| Ok(())).unwrap();
        let error = flushes.run(fail).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let error = flushes.run(|| unreachable!()).unwrap_err();
        assert!(error.to_string().contains("an earlier flush failed"));
    }

    /// Begins a flush that goes on until something is sent, and then ends as `end` says; beside it
    /// others are asked for.
    fn beside(end: fn() -> io::Result<()>, others: usize) -> (Vec<io::Result<()>>, usize) {
        let flushes = Flushes::default();
        let begun = AtomicUsize::new(0);
        let (go_on, wait) = mpsc::channel();
        let results = std::thread::scope(|scope| {
            let (told, first_began) = mpsc::channel();
            let (flushes, begun) = (&flushes, &begun);
            scope.spawn(move || {
                flushes.run(|| {
                    told.send(()).unwrap();
                    wait.recv().unwrap();
                    end()
                })
            });
            first_began.recv().unwrap();
            let run = || {
                flushes.run(|| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
            };
            let threads: Vec<_> = (0..others).map(|_| scope.spawn(run)).collect();
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(begun.load(Ordering::Relaxed), 0, "one at a time");
            go_on.send(()).unwrap();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        (results, begun.load(Ordering::Relaxed))
    }

    #[test]
    fn no_flush_counts_beside_one_that_fails() {
        let (results, begun) = beside(fail, 2);
        assert!(results.iter().all(Result::is_err));
        assert_eq!(begun, 0);
    }

    #[test]
    fn flushes_that_wait_share_one() {
        // On a busy machine one may ask when the others are done.
        let shared = (0..50).any(|_| {
            let (results, begun) = beside(|| Ok(()), 3);
            assert!(results.iter().all(Result::is_ok));
            begun == 1
        });
        assert!(shared, "each has one of its own");
    }
}
