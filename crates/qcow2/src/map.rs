//! What lies where in a chain.

use std::sync::Arc;

use crate::error::Result;
use crate::image::{Extent, Image};
use crate::node::Node;

/// A run of guest bytes that lie in one place of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    /// Bytes.
    pub length: u64,
    /// The node that decides: 0 is the top.
    pub depth: usize,
    /// Some node has a word on it; else it is unallocated down to the bottom.
    pub present: bool,
    /// Reads as zeroes.
    pub zero: bool,
    /// Data must be read for it.
    pub data: bool,
    /// The data is compressed.
    pub compressed: bool,
    /// Offset in the deciding node's file, where the bytes lie there as they are.
    pub offset: Option<u64>,
}

impl Node {
    /// The run at `offset`, of at most `length` bytes, down to and without `base`.
    ///
    /// # Errors
    /// As [`Image::extent`].
    pub fn map(&self, offset: u64, length: u64, base: Option<&Arc<Node>>) -> Result<MapRun> {
        let (mut run, below) = self.map_here(offset, length)?;
        if !below {
            return Ok(run);
        }
        let mut next = self.backing();
        while let Some(node) = next {
            if base.is_some_and(|base| Arc::ptr_eq(base, &node)) {
                return Ok(run);
            }
            let size = node.size();
            if offset >= size {
                run.depth += 1;
                return Ok(MapRun {
                    present: true,
                    zero: true,
                    ..run
                });
            }
            let depth = run.depth + 1;
            let (here, below) = node.map_here(offset, run.length.min(size - offset))?;
            run = MapRun { depth, ..here };
            if !below {
                return Ok(run);
            }
            next = node.backing();
        }
        Ok(MapRun { zero: true, ..run })
    }

    /// What this node says, and whether it leaves the word to the one below.
    fn map_here(&self, offset: u64, length: u64) -> Result<(MapRun, bool)> {
        match self {
            Node::Qcow2(image) => image.map_here(offset, length),
            Node::Raw(disk) => {
                let (data, length) = match disk.storage().next_data(offset).unwrap_or(None) {
                    Some((start, end)) if start <= offset => (true, (end - offset).min(length)),
                    Some((start, _)) => (false, (start - offset).min(length)),
                    None => (false, length),
                };
                let run = MapRun {
                    length: if length == 0 { 1 } else { length },
                    depth: 0,
                    present: true,
                    zero: !data,
                    data,
                    compressed: false,
                    offset: Some(offset),
                };
                Ok((run, false))
            }
        }
    }

    /// Whether this node or one above `base` has a word on the bytes at `offset`, and for how
    /// many of `length` bytes that is so.
    ///
    /// # Errors
    /// As [`Image::extent`].
    pub fn allocated_above(
        &self,
        base: Option<&Arc<Node>>,
        offset: u64,
        length: u64,
    ) -> Result<(bool, u64)> {
        let run = self.map(offset, length, base)?;
        Ok((run.present, run.length))
    }
}

impl Image {
    fn map_here(&self, offset: u64, length: u64) -> Result<(MapRun, bool)> {
        let _entered = self.entered();
        let (extent, mut count) = self.extent(offset, length)?;
        // Runs of nothing are joined across tables; the list of runs is for people.
        while count < length && matches!(extent, Extent::Unallocated | Extent::Zero { host: None })
        {
            let (next, more) = self.extent(offset + count, length - count)?;
            if next != extent {
                break;
            }
            count += more;
        }
        let run = MapRun {
            length: count,
            depth: 0,
            present: !matches!(extent, Extent::Unallocated),
            zero: matches!(extent, Extent::Zero { .. }),
            data: matches!(extent, Extent::Data { .. } | Extent::Compressed { .. }),
            compressed: matches!(extent, Extent::Compressed { .. }),
            offset: match extent {
                Extent::Data { offset } if self.cipher.is_none() => Some(offset),
                Extent::Zero { host } => host,
                _ => None,
            },
        };
        Ok((run, !run.present))
    }
}
