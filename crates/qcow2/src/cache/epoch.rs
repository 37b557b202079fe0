//! Who may still use a host cluster that the tables no longer name, or what lies behind a raw disk's
//! new end.
//!
//! A request enters before it looks an extent up and leaves when its I/O is done. A cluster
//! freed in epoch `e` is handed out again only once epoch `e + 2` has come, and the epoch moves
//! on only while nobody is left in the one before: the usual epoch-based reclamation, with host
//! clusters in place of memory.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 16;

#[derive(Default)]
#[repr(align(64))]
struct Shard {
    /// Users of even and of odd epochs.
    users: [AtomicU64; 2],
}

/// Proof that its holder has entered; give it back to [`crate::Node::leave`].
#[derive(Debug)]
#[must_use = "a ticket that is never given back keeps freed clusters from being used again"]
pub struct Ticket {
    shard: u8,
    parity: u8,
}

#[derive(Default)]
pub(crate) struct Epochs {
    now: AtomicU64,
    shards: [Shard; SHARDS],
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

impl Epochs {
    pub(crate) fn enter(&self) -> Ticket {
        let shard = SHARD.get();
        loop {
            let epoch = self.now.load(Ordering::SeqCst);
            let parity = (epoch & 1) as usize;
            let users = &self.shards[shard].users[parity];
            users.fetch_add(1, Ordering::SeqCst);
            // Had the epoch moved twice in between, this count would come too late.
            if self.now.load(Ordering::SeqCst) == epoch {
                return Ticket {
                    shard: shard as u8,
                    parity: parity as u8,
                };
            }
            users.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn leave(&self, ticket: Ticket) {
        let shard = &self.shards[usize::from(ticket.shard) % SHARDS];
        shard.users[usize::from(ticket.parity & 1)].fetch_sub(1, Ordering::Release);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Moves to the next epoch if nobody is left in the one before; returns the current one.
    /// Only the holder of the image's metadata calls this, or who resizes a raw disk.
    pub(crate) fn advance(&self) -> u64 {
        let epoch = self.now.load(Ordering::SeqCst);
        let before = ((epoch + 1) & 1) as usize;
        if self
            .shards
            .iter()
            .all(|shard| shard.users[before].load(Ordering::SeqCst) == 0)
        {
            self.now.store(epoch + 1, Ordering::SeqCst);
            return epoch + 1;
        }
        epoch
    }

    /// Waits until everyone who is in now has left.
    pub(crate) fn wait(&self) {
        let goal = self.now() + 2;
        let mut tries = 0;
        while self.advance() < goal {
            tries += 1;
            if tries < 16 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_holds_the_epoch_after_next_back() {
        let epochs = Epochs::default();
        let freed_at = epochs.now();
        let ticket = epochs.enter();
        for _ in 0..5 {
            epochs.advance();
        }
        assert!(epochs.now() < freed_at + 2);
        epochs.leave(ticket);
        epochs.wait();
        assert!(epochs.now() >= freed_at + 2);
    }
}
