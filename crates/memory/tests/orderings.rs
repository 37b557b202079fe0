//! Every interleaving and every memory order that the language allows of marks and takes of one
//! word of the dirty bitmap: the crate's own source, compiled with loom's atomics.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

#[path = "../src/dirty/word.rs"]
mod word;

/// Two pages that share a word of the bitmap.
#[derive(Default)]
struct Pages {
    bits: AtomicU64,
    data: [AtomicU64; 2],
}

impl Pages {
    /// Writes to a page as a device does: the data, then the mark.
    fn write(&self, page: usize, value: u64) {
        self.data[page].store(value, Ordering::Relaxed);
        word::mark(&self.bits, 1 << page);
    }

    /// Brings a copy up to date as a save does: the take, then the data.
    fn save(&self, copy: &mut [u64; 2]) {
        let taken = word::take(&self.bits);
        for (page, copy) in copy.iter_mut().enumerate() {
            if taken >> page & 1 == 1 {
                *copy = self.data[page].load(Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn two_writers_and_a_taker_lose_no_write() {
    loom::model(|| {
        let pages = Arc::new(Pages::default());
        let writers: Vec<_> = (0..2)
            .map(|page| {
                let pages = Arc::clone(&pages);
                thread::spawn(move || pages.write(page, 7))
            })
            .collect();
        let mut copy = [0; 2];
        pages.save(&mut copy);
        writers
            .into_iter()
            .for_each(|writer| assert!(writer.join().is_ok()));
        pages.save(&mut copy);
        assert_eq!(copy, [7, 7]);
    });
}

#[test]
fn a_second_write_to_a_marked_page_is_not_lost() {
    loom::model(|| {
        let pages = Arc::new(Pages::default());
        pages.write(0, 1);
        let writer = {
            let pages = Arc::clone(&pages);
            thread::spawn(move || pages.write(0, 2))
        };
        let mut copy = [0; 2];
        pages.save(&mut copy);
        assert!(writer.join().is_ok());
        pages.save(&mut copy);
        assert_eq!(copy[0], 2);
    });
}
