//! Whether data clusters are worth asking the file about.

use super::Image;

/// More clusters are not looked at: who asks must not wait for what a header makes up.
const LIMIT: u64 = 1 << 22;

impl Image {
    /// Whether clearly more clusters are in use than the image file has space for on the host, as
    /// after preallocating only metadata: what is [`super::Extent::Data`] may then be holes, of
    /// which [`crate::Storage::next_data`] knows. Told once, when first asked; false if it can not
    /// be told.
    pub fn is_preallocated(&self) -> bool {
        *self
            .preallocated
            .get_or_init(|| self.is_sparse().unwrap_or(false))
    }

    /// Whether the clusters at `host`, an offset in the data file, have nothing but a hole of that
    /// file, and for how many of `length` bytes that is so or not. A `unit` of bytes (a power of
    /// two) with any data in it counts as data as a whole, whatever holes a short write left there.
    /// For images that [are preallocated](Self::is_preallocated).
    pub fn is_hole(&self, host: u64, length: u64, unit: u64) -> (bool, u64) {
        let (hole, end) = match self.data.next_data(host) {
            // Whoever reads it sees the error.
            Err(_) => return (false, length),
            Ok(None) => (true, u64::MAX),
            Ok(Some((start, _))) if start - start % unit > host => (true, start - start % unit),
            Ok(Some((_, end))) => (false, end.next_multiple_of(unit)),
        };
        (hole, end.saturating_sub(host).min(length))
    }

    /// QEMU's measure, so that both say the same of an image: a tenth more clusters than space,
    /// and two at least, for files whose last cluster is short.
    fn is_sparse(&self) -> Option<bool> {
        let space = self.file.allocated().ok()? >> self.geometry.cluster_bits;
        let enough = (space + space / 9).max(space + 2);
        let clusters = self.geometry.clusters(self.file.len().ok()?);
        if clusters < enough {
            return Some(false);
        }
        let mut state = self.lock();
        let mut used = 0;
        for cluster in 0..clusters.min(LIMIT) {
            used += u64::from(state.refcounts.get(self.disk(), cluster).ok()? != 0);
            if used >= enough {
                return Some(true);
            }
        }
        Some(false)
    }
}
