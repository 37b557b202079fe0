//! Reading guest data.

use std::cell::RefCell;
use std::io::IoSliceMut;
use std::sync::PoisonError;

use super::{BackingState, Extent, Image};
use crate::compress;
use crate::error::{Error, IoContext, Result};
use crate::format::entry::CompressedRange;

thread_local! {
    /// Compressed bytes and the cluster that they make, kept between requests.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Image {
    /// Fills `buf` with guest data from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Io`], [`Error::Malformed`], [`Error::Decompress`] from
    /// this image or one below it; [`Error::NotAllowed`] when the data is in a backing file
    /// that was not opened.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.read_unchecked(buf, offset)
    }

    /// Reads guest data that may lie past the end of the disk.
    pub(crate) fn read_unchecked(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let _entered = self.entered();
        let mut buf = buf;
        let mut at = offset;
        while !buf.is_empty() {
            let (extent, count) = self.extent_unchecked(at, buf.len() as u64)?;
            let (part, rest) = buf.split_at_mut(count as usize);
            self.read_extent(extent, part, at)?;
            buf = rest;
            at += count;
        }
        Ok(())
    }

    /// Fills all of `bufs` with guest data from `offset` on.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let total: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.check_range(offset, total)?;
        if self.cipher.is_none() && total > 0 {
            let _entered = self.entered();
            if let (Extent::Data { offset: host }, count) = self.extent(offset, total)?
                && count == total
            {
                return self
                    .data
                    .read_vectored_at(bufs, host)
                    .context("read", host, total);
            }
        }
        let mut at = offset;
        for buf in bufs {
            self.read_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn read_extent(&self, extent: Extent, part: &mut [u8], at: u64) -> Result<()> {
        match extent {
            Extent::Data { offset } if self.cipher.is_some() => self.read_encrypted(part, offset),
            Extent::Data { offset } => self.data.read_at(part, offset),
            Extent::Zero { .. } => {
                part.fill(0);
                Ok(())
            }
            Extent::Unallocated => self.read_backing(part, at),
            Extent::Compressed { offset, length } => {
                self.read_compressed(CompressedRange { offset, length }, part, at)
            }
        }
    }

    /// Fills `part` with what lies below this image.
    pub(crate) fn read_backing(&self, part: &mut [u8], at: u64) -> Result<()> {
        let node = match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            BackingState::None => {
                part.fill(0);
                return Ok(());
            }
            BackingState::Closed(name) => return Err(Error::NotAllowed(name.clone())),
            BackingState::Node(node) => std::sync::Arc::clone(node),
        };
        node.read_at(part, at)
    }

    fn read_encrypted(&self, part: &mut [u8], host: u64) -> Result<()> {
        let Some(cipher) = &self.cipher else {
            return self.data.read_at(part, host);
        };
        let lead = (host % 512) as usize;
        if lead == 0 && part.len().is_multiple_of(512) {
            self.data.read_at(part, host)?;
            return cipher.decrypt(host / 512, part);
        }
        let mut sectors = vec![0; (lead + part.len()).next_multiple_of(512)];
        self.data.read_at(&mut sectors, host - lead as u64)?;
        cipher.decrypt(host / 512, &mut sectors)?;
        part.copy_from_slice(&sectors[lead..lead + part.len()]);
        Ok(())
    }

    fn read_compressed(&self, range: CompressedRange, part: &mut [u8], at: u64) -> Result<()> {
        let size = self.geometry.cluster_size() as usize;
        let within = self.geometry.in_cluster(at) as usize;
        let kind = self.compression;
        SCRATCH.with_borrow_mut(|(data, cluster)| {
            data.resize(range.length as usize, 0);
            self.file.read_at(data, range.offset)?;
            if part.len() == size {
                return compress::decompress(kind, range, data, part);
            }
            cluster.resize(size, 0);
            compress::decompress(kind, range, data, cluster)?;
            part.copy_from_slice(&cluster[within..within + part.len()]);
            Ok(())
        })
    }
}
