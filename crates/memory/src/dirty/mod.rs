//! Which pages have been written: the bitmap that writers mark, and the log taken from it.

mod bitmap;
mod log;
mod word;

use std::sync::atomic::{AtomicU64, Ordering};

pub use bitmap::DirtyBitmap;
pub use log::{DirtyLog, DirtyRange};

pub(crate) use log::RegionLog;

/// Pages that one word of a bitmap describes.
const PAGES_PER_WORD: u64 = u64::BITS as u64;

/// Words that describe `size` bytes.
pub(crate) fn words_for(size: u64) -> usize {
    size.div_ceil(crate::PAGE_SIZE).div_ceil(PAGES_PER_WORD) as usize
}
