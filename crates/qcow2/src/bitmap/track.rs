//! Marking what writes touch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Bitmap;

/// The bitmaps that writes are marked in.
#[derive(Default)]
pub(crate) struct Tracker {
    active: AtomicBool,
    list: RwLock<Vec<Arc<Bitmap>>>,
}

impl Tracker {
    /// Marks in these from now on.
    pub(crate) fn set(&self, list: Vec<Arc<Bitmap>>) {
        self.active.store(!list.is_empty(), Ordering::Release);
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// Marks a range of guest bytes. Costs one load where no bitmap is enabled.
    pub(crate) fn mark(&self, offset: u64, length: u64) {
        if self.active.load(Ordering::Acquire) {
            for bitmap in self
                .list
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
            {
                bitmap.mark(offset, length);
            }
        }
    }
}
