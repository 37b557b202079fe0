//! What kind of data a range of a disk holds, layer by layer.

use strata_qcow2::{Extent, Image, Node, Result, Storage};

/// A run of like bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes of the run.
    pub length: u64,
    /// Reading takes stored data.
    pub data: bool,
    /// Reads as zeroes.
    pub zero: bool,
    /// This layer says what is read here, not one below.
    pub allocated: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Where in the layer's file it lies, for plain data.
    pub offset: Option<u64>,
    /// Levels below the top; 0 is the top.
    pub depth: u64,
}

impl Status {
    /// Data of no length yet, for callers that do not know better.
    pub const DATA: Status = Status {
        length: 0,
        data: true,
        zero: false,
        allocated: true,
        compressed: false,
        offset: None,
        depth: 0,
    };

    fn zero(length: u64) -> Self {
        Self {
            length,
            data: false,
            zero: true,
            ..Self::DATA
        }
    }

    fn data(length: u64, offset: Option<u64>) -> Self {
        Self {
            length,
            offset,
            ..Self::DATA
        }
    }
}

/// The status of the bytes from `offset` on in the layer `node` alone, at most `length` bytes.
///
/// # Errors
/// Those of reading its tables.
pub(super) fn layer(node: &Node, offset: u64, length: u64) -> Result<Status> {
    let length = length.min(node.size().saturating_sub(offset));
    match node {
        Node::Raw(disk) => raw(&**disk.storage(), offset, length),
        Node::Qcow2(image) => qcow2(image, offset, length),
    }
}

fn raw(storage: &dyn Storage, offset: u64, length: u64) -> Result<Status> {
    let io = |source| strata_qcow2::Error::Io {
        action: "look for data in",
        offset,
        length,
        source,
    };
    let run = |end: u64| end.saturating_sub(offset).min(length);
    Ok(match storage.next_data(offset).map_err(io)? {
        None => Status {
            offset: Some(offset),
            ..Status::zero(length)
        },
        Some((start, _)) if start > offset => Status {
            offset: Some(offset),
            ..Status::zero(run(start))
        },
        Some((_, end)) => {
            // Around the page cache the rest of the last block is read along.
            let end = end.next_multiple_of(storage.alignment() as u64);
            Status::data(run(end), Some(offset))
        }
    })
}

fn qcow2(image: &Image, offset: u64, length: u64) -> Result<Status> {
    let (extent, length) = image.extent(offset, length)?;
    let plain = |host: u64| (!image.is_encrypted()).then_some(host);
    Ok(match extent {
        Extent::Data { offset: host } if !image.is_encrypted() && image.is_preallocated() => {
            let unit = image.geometry().cluster_size();
            let (zero, length) = image.is_hole(host, length, unit);
            Status {
                zero,
                ..Status::data(length, Some(host))
            }
        }
        Extent::Data { offset: host } => Status::data(length, plain(host)),
        Extent::Zero { host } => Status {
            offset: host.and_then(plain),
            ..Status::zero(length)
        },
        Extent::Compressed { .. } => Status {
            compressed: true,
            ..Status::data(length, None)
        },
        Extent::Unallocated => {
            let below = image.backing().map_or(0, |below| below.size());
            let end = if offset < below {
                length.min(below - offset)
            } else {
                length
            };
            Status {
                length: end,
                zero: offset >= below,
                allocated: false,
                ..Status::zero(length)
            }
        }
    })
}

/// The status of a range through the whole chain below `top`, or through it down to `base` but
/// not that.
///
/// # Errors
/// Those of reading the tables of the layers.
pub fn chain(top: &Node, base: Option<&Node>, offset: u64, length: u64) -> Result<Status> {
    let mut status = layer(top, offset, length)?;
    let mut next = top.backing();
    while !status.zero && !status.data {
        let Some(node) = next else { break };
        if base.is_some_and(|base| std::ptr::eq(base, &*node)) {
            break;
        }
        let depth = status.depth + 1;
        status = layer(&node, offset, status.length)?;
        status.depth = depth;
        next = node.backing();
    }
    Ok(status)
}
