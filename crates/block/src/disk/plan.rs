//! Where the bytes of a request lie, and so which way it takes.

use strata_qcow2::{Error, Extent, Node, Ticket};

use super::{Disk, Link};

/// Runs that a request may have and still be submitted as it is. A larger number is the mark of
/// small, scattered clusters, where one thread that does it in order costs less.
const MAX_RUNS: usize = 16;

/// Bytes of zeroes that a queue's thread writes into guest memory itself.
const MAX_ZEROES: u64 = 1 << 20;

/// Where a run of bytes lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file, from an offset on.
    File { file: u16, offset: u64 },
    /// Nowhere: it reads as zeroes.
    Zeroes,
}

/// A part of a request that lies in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) place: Place,
    pub(crate) len: u64,
}

/// The runs of one request, in order. It is filled anew for each.
pub(crate) struct Plan {
    runs: [Run; MAX_RUNS],
    used: usize,
    zeroes: u64,
}

/// The request takes another way than the runs: see [`Disk::plan_read`].
struct NotDirect;

impl Plan {
    pub(crate) fn new() -> Self {
        let run = Run {
            place: Place::Zeroes,
            len: 0,
        };
        Self {
            runs: [run; MAX_RUNS],
            used: 0,
            zeroes: 0,
        }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs[..self.used]
    }

    fn clear(&mut self) {
        self.used = 0;
        self.zeroes = 0;
    }

    /// Appends a run, joined with the one before where they lie side by side.
    fn push(&mut self, place: Place, len: u64) -> Result<(), NotDirect> {
        if place == Place::Zeroes {
            self.zeroes += len;
            if self.zeroes > MAX_ZEROES {
                return Err(NotDirect);
            }
        }
        if let Some(last) = self.used.checked_sub(1).map(|index| &mut self.runs[index]) {
            let joins = match (last.place, place) {
                (Place::Zeroes, Place::Zeroes) => true,
                (Place::File { file, offset }, Place::File { file: f, offset: o }) => {
                    file == f && offset + last.len == o
                }
                _ => false,
            };
            if joins {
                last.len += len;
                return Ok(());
            }
        }
        let next = self.runs.get_mut(self.used).ok_or(NotDirect)?;
        *next = Run { place, len };
        self.used += 1;
        Ok(())
    }
}

impl Disk {
    /// Starts a request: clusters found from now on stay what they are until [`Disk::leave`], and
    /// the disk does not end before what is inside of it. Only the top image changes; those below
    /// are open for reading.
    pub(crate) fn enter(&self) -> Option<Ticket> {
        (!self.read_only).then(|| self.top().enter())
    }

    /// Ends what [`Disk::enter`] began.
    pub(crate) fn leave(&self, ticket: Ticket) {
        self.top().leave(ticket);
    }

    /// Finds the runs of a read inside of the disk. False if it can not be done by them:
    /// something is compressed, encrypted or too scattered, or a table is not in memory yet. A
    /// queue's thread must not wait for the image's lock: who holds it may wait for the requests
    /// that this thread has in flight.
    ///
    /// # Errors
    /// Those of [`Image::extent_cached`].
    pub(crate) fn plan_read(&self, offset: u64, len: u64, plan: &mut Plan) -> Result<bool, Error> {
        plan.clear();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let Some((place, count)) = self.find(at, end - at)? else {
                return Ok(false);
            };
            if plan.push(place, count).is_err() {
                return Ok(false);
            }
            at += count;
        }
        Ok(true)
    }

    /// The place of the first bytes, looked for from the top image down.
    fn find(&self, offset: u64, len: u64) -> Result<Option<(Place, u64)>, Error> {
        let mut len = len;
        for link in &self.links {
            let size = link.node.size();
            if offset >= size {
                break;
            }
            // What lies below a smaller image is not seen past its end.
            let count = len.min(size - offset);
            match &*link.node {
                Node::Raw(_) => {
                    let place = link.file.map(|file| Place::File { file, offset });
                    return Ok(place.map(|place| (place, count)));
                }
                Node::Qcow2(image) => {
                    let Some((extent, count)) = image.extent_cached(offset, count)? else {
                        return Ok(None);
                    };
                    match (extent, link.file) {
                        (Extent::Unallocated, _) => len = count,
                        (Extent::Zero { .. }, _) => return Ok(Some((Place::Zeroes, count))),
                        (Extent::Data { offset }, Some(file)) => {
                            return Ok(Some((Place::File { file, offset }, count)));
                        }
                        (Extent::Data { .. } | Extent::Compressed { .. }, _) => return Ok(None),
                    }
                }
            }
        }
        Ok(Some((Place::Zeroes, len)))
    }

    /// Finds the runs of a write inside of the disk. False if it needs clusters or encryption, or
    /// a table that is not in memory yet.
    ///
    /// # Errors
    /// Those of [`Image::overwrite_cached`].
    pub(crate) fn plan_write(&self, offset: u64, len: u64, plan: &mut Plan) -> Result<bool, Error> {
        plan.clear();
        let Some(Link {
            node,
            file: Some(file),
            direct_writes: true,
            ..
        }) = self.links.first()
        else {
            return Ok(false);
        };
        let file = *file;
        let Node::Qcow2(image) = &**node else {
            return Ok(plan.push(Place::File { file, offset }, len).is_ok());
        };
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let Some((offset, count)) = image.overwrite_cached(at, end - at)? else {
                return Ok(false);
            };
            if plan.push(Place::File { file, offset }, count).is_err() {
                return Ok(false);
            }
            at += count;
        }
        Ok(true)
    }
}
