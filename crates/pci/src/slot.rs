//! One slot of the root bus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::bar::BarRange;
use crate::function::Function;

/// Bytes of the header, which has the command register and the BARs.
const HEADER: u16 = 0x40;

/// A slot, which may be empty.
///
/// Finding the slot of an address takes no lock. `base` and `size` of a BAR are two loads: a vCPU
/// that races with one that moves the BAR may find the old place, the new one, or none, as on a
/// machine; the function takes any offset.
#[derive(Default)]
pub(crate) struct Slot {
    function: RwLock<Option<Arc<dyn Function>>>,
    /// `size` is 0 for a BAR that is not decoded.
    bars: [Window; 6],
    /// Held by who changes what is decoded, so that `bars` is of the last change.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Window {
    base: AtomicU64,
    size: AtomicU64,
}

impl Slot {
    pub(crate) fn function(&self) -> Option<Arc<dyn Function>> {
        self.function
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts a function in, or none, and returns what was there.
    pub(crate) fn set(&self, function: Option<Arc<dyn Function>>) -> Option<Arc<dyn Function>> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(
            &mut *self
                .function
                .write()
                .unwrap_or_else(PoisonError::into_inner),
            function,
        );
        self.publish();
        before
    }

    pub(crate) fn read_config(&self, offset: u16, data: &mut [u8]) {
        match self.function() {
            Some(function) => function.read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    pub(crate) fn write_config(&self, offset: u16, data: &[u8]) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(function) = self.function() else {
            return;
        };
        function.write_config(offset, data);
        // Registers behind the header do not change what is decoded.
        if offset < HEADER {
            self.publish();
        }
    }

    /// The BAR that decodes `addr`, and the offset in it.
    pub(crate) fn find(&self, addr: u64) -> Option<(u8, u64)> {
        (0_u8..).zip(&self.bars).find_map(|(index, window)| {
            let offset = addr.wrapping_sub(window.base.load(Ordering::Relaxed));
            (offset < window.size.load(Ordering::Relaxed)).then_some((index, offset))
        })
    }

    /// Makes what the function decodes known to [`find`](Self::find).
    fn publish(&self) {
        let mut ranges = [None; 6];
        if let Some(function) = self.function() {
            function.ranges(&mut |range: BarRange| {
                if let Some(entry) = ranges.get_mut(usize::from(range.bar)) {
                    *entry = Some(range);
                }
            });
        }
        for (window, range) in self.bars.iter().zip(ranges) {
            let (base, size) = range.map_or((0, 0), |range| (range.base, range.size));
            if window.base.load(Ordering::Relaxed) != base {
                // Never the new base with the old size, nor the other way round for long.
                window.size.store(0, Ordering::Release);
                window.base.store(base, Ordering::Release);
            }
            window.size.store(size, Ordering::Release);
        }
    }
}
