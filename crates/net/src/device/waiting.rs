//! Receive buffers that wait for frames, in the driver's order.

/// Chains that stay where they are: a ring, so that a buffer that comes or goes moves no other, and
/// nothing is allocated once it has grown.
#[derive(Default)]
pub(super) struct Waiting<T> {
    ring: Vec<T>,
    /// Where the first one lies, and how many wait.
    first: usize,
    count: usize,
}

impl<T: Default> Waiting<T> {
    /// Those that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (wrapped, from_first) = self.ring.split_at(self.first);
        from_first.iter().chain(wrapped).take(self.count)
    }

    /// The first of them.
    pub(super) fn first(&mut self) -> Option<&mut T> {
        self.ring.get_mut(self.first).filter(|_| self.count > 0)
    }

    /// The chain behind the last one that waits, for [`keep`](Self::keep) to let it wait too.
    pub(super) fn spare(&mut self) -> &mut T {
        if self.count == self.ring.len() {
            // Grown from all of one to the next: rare, and bounded by the pieces that are gathered.
            self.ring.rotate_left(self.first);
            self.first = 0;
            self.ring.push(T::default());
        }
        let at = self.at(self.count);
        &mut self.ring[at]
    }

    /// The chain that [`spare`](Self::spare) gave waits from now on.
    pub(super) fn keep(&mut self) {
        self.count = self.ring.len().min(self.count + 1);
    }

    /// The first `count` wait no more.
    pub(super) fn release(&mut self, count: usize) {
        let count = count.min(self.count);
        self.first = self.at(count);
        self.count -= count;
    }

    /// The place of the `index`th that waits.
    fn at(&self, index: usize) -> usize {
        let at = self.first + index;
        if at < self.ring.len() {
            at
        } else {
            at - self.ring.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn it_is_a_queue_however_it_grows_and_wraps() {
        let (mut waiting, mut model) = (Waiting::<u32>::default(), VecDeque::new());
        let mut random = 1_u32;
        for number in 0..10_000 {
            random = random.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            // Mostly full, so that it wraps at all sizes up to 40.
            if random >> 30 > 0 && model.len() < 40 {
                *waiting.spare() = number;
                waiting.keep();
                model.push_back(number);
            } else {
                let count = (random >> 20) as usize % 8;
                waiting.release(count);
                model.drain(..count.min(model.len()));
            }
            assert!(waiting.iter().eq(model.iter()));
            assert_eq!(waiting.first().copied(), model.front().copied());
        }
        // What is not kept does not wait.
        *waiting.spare() = 7;
        assert!(waiting.iter().eq(model.iter()));
        waiting.release(usize::MAX);
        assert!(waiting.first().is_none());
    }
}
