//! Writing compressed clusters.

use super::Image;
use super::state::State;
use crate::compress;
use crate::error::{Error, Result};
use crate::format::entry::L2Entry;

impl Image {
    /// Writes one whole cluster (or what the disk has of its last one) compressed, or plainly if
    /// it does not get smaller. Compression runs on the calling thread without any lock.
    ///
    /// # Errors
    /// [`Error::Invalid`] for data that is not one cluster; [`Error::Unsupported`] for encrypted
    /// images and external data files; else as [`Image::write_at`].
    pub fn write_compressed(&self, data: &[u8], offset: u64) -> Result<()> {
        let _held = self.hold_size();
        self.check_write(offset, data.len() as u64)?;
        let size = self.geometry.cluster_size();
        let whole = (self.size() - offset).min(size);
        if self.geometry.in_cluster(offset) != 0 || data.len() as u64 != whole || data.is_empty() {
            return Err(Error::Invalid(
                "compressed data is written by whole clusters".into(),
            ));
        }
        if self.geometry.data_file || self.cipher.is_some() {
            return Err(Error::Unsupported(
                "compressed clusters in an encrypted image or with an external data file".into(),
            ));
        }
        let packed = if whole == size {
            compress::compress(self.compression, data)?
        } else {
            let mut cluster = data.to_vec();
            cluster.resize(size as usize, 0);
            compress::compress(self.compression, &cluster)?
        };
        match packed {
            Some(packed) => self.write_packed(&packed, offset),
            None => self.write_at(data, offset),
        }
    }

    fn write_packed(&self, packed: &[u8], offset: u64) -> Result<()> {
        let length = packed.len() as u64;
        let range = (offset, offset + self.geometry.cluster_size());
        let state = self.lock_to_write()?;
        let mut state = self.wait_for(state, range.0, range.1);
        self.writable_table(&mut state, offset)?;
        let host = self.allocate_bytes(&mut state, length)?;
        state.in_flight.push(range);
        drop(state);

        let written = self.file.write_at(packed, host);

        let mut state = self.lock();
        let result = written
            .and_then(|()| self.link_packed(&mut state, offset, host, length))
            .or_else(|error| self.free_bytes(&mut state, host, length).and(Err(error)));
        self.land(&mut state, range);
        self.tracker.mark(offset, self.geometry.cluster_size());
        result?;
        self.release(state)
    }

    fn link_packed(&self, state: &mut State, at: u64, host: u64, length: u64) -> Result<()> {
        let old = self.entry(state, at)?;
        self.set_entry(
            state,
            at,
            L2Entry::for_compressed(&self.geometry, host, length),
        )?;
        self.unlink(state, old)
    }

    fn free_bytes(&self, state: &mut State, host: u64, length: u64) -> Result<()> {
        let first = self.geometry.cluster_start(host);
        let clusters = self.geometry.clusters(host + length - first);
        self.free_now(state, first, clusters)
    }

    /// Room for less than a cluster of bytes, behind the last such if it fits there.
    fn allocate_bytes(&self, state: &mut State, length: u64) -> Result<u64> {
        let size = self.geometry.cluster_size();
        let bits = self.geometry.cluster_bits;
        let tail = state.refcounts.tail;
        let used = self.geometry.in_cluster(tail);
        let shareable = used != 0
            && state.refcounts.get(self.disk(), tail >> bits)? < self.geometry.max_refcount();
        if shareable && used + length <= size {
            state.refcounts.increase(self.disk(), tail >> bits)?;
            state.refcounts.tail = tail + length;
            return Ok(tail);
        }
        let new = self.allocate_exact(state, "compressed cluster", 1)?;
        let follows = shareable && self.geometry.cluster_start(tail) + size == new.offset;
        let start = if follows { tail } else { new.offset };
        if follows && let Err(error) = state.refcounts.increase(self.disk(), tail >> bits) {
            self.free_now(state, new.offset, 1)?;
            return Err(error);
        }
        state.refcounts.tail = start + length;
        Ok(start)
    }
}
