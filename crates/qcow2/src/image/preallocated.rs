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
