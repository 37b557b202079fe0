//! An open image.

mod backing;
mod compressed;
mod flush;
mod header;
mod locate;
mod open;
mod overlap;
mod preallocated;
mod prepare;
mod read;
mod resize;
pub(crate) mod state;
mod vm_state;
mod write;
mod zero;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};

pub use locate::Extent;
pub use open::{Backing, FindingSink, OpenOptions};
use state::State;

use crate::bitmap::Tracker;
use crate::cache::cluster_set::ClusterSet;
use crate::cache::epoch::{Epochs, Ticket};
use crate::cache::slices::Slices;
use crate::cache::table::Table;
use crate::crypt::Cipher;
use crate::error::Result;
use crate::format::{CompressionType, Geometry, Header};
use crate::node::Node;
use crate::storage::Storage;

/// An open qcow2 image. All methods take `&self` and may be called from many threads.
pub struct Image {
    pub(crate) file: Arc<dyn Storage>,
    /// Where data clusters lie: the image file, or the external data file.
    pub(crate) data: Arc<dyn Storage>,
    pub(crate) geometry: Geometry,
    pub(crate) compression: CompressionType,
    pub(crate) writable: bool,
    /// The external data file reads as a raw image by itself.
    pub(crate) raw_data: bool,
    size: AtomicU64,
    pub(crate) l1: Table,
    pub(crate) l2: Slices,
    pub(crate) slice_size: u64,
    pub(crate) epochs: Epochs,
    backing: RwLock<BackingState>,
    pub(crate) cipher: Option<Arc<dyn Cipher>>,
    /// Held for writing while a write encrypts the rest of its first and last sectors anew.
    rewriting: RwLock<()>,
    /// Clusters that hold metadata, known once `ready`.
    pub(crate) metadata: ClusterSet,
    pub(crate) tracker: Tracker,
    check_inactive_l2: bool,
    /// The answer of [`Image::is_preallocated`].
    preallocated: OnceLock<bool>,
    /// Hears that the image is marked as corrupt.
    on_finding: Option<FindingSink>,
    /// Overrides the header's wish for lazy refcounts.
    lazy_refcounts: Option<bool>,
    /// Freed clusters are given back to the host.
    pass_discards: bool,
    /// The preparations for writing are done.
    pub(crate) ready: AtomicBool,
    /// Memory and disk may differ in ways that no later write can mend.
    pub(crate) broken: AtomicBool,
    closed: AtomicBool,
    /// Written by what changes the disk's size, which takes `state` several times; read by what
    /// takes more of the last cluster than the disk has, or stores the size elsewhere.
    resizing: RwLock<()>,
    /// Lock order: `resizing`, this one, then a set of `l2`.
    state: Mutex<State>,
    /// An allocating write has been linked or given up.
    landed: Condvar,
    /// A flush has ended or been taken over.
    flushed: Condvar,
}

impl Drop for Image {
    fn drop(&mut self) {
        // `close` is the way to learn of errors.
        let _ = self.close();
    }
}

/// What stands below the image.
pub(crate) enum BackingState {
    /// Nothing; unallocated clusters read as zeroes.
    None,
    /// The image names a file that has not been opened: reading through to it fails.
    Closed(String),
    Node(Arc<Node>),
}

/// Holds freed clusters back while a request uses them.
pub(crate) struct Entered<'a> {
    epochs: &'a Epochs,
    ticket: Option<Ticket>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.epochs.leave(ticket);
        }
    }
}

impl Image {
    /// Whether the data is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The image's shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// A copy of the header as it is now.
    pub fn header(&self) -> Header {
        self.lock().header.clone()
    }

    /// The image file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.file
    }

    /// Where the extents of [`Extent::Data`] lie: the external data file, or the image file.
    pub fn data_storage(&self) -> &Arc<dyn Storage> {
        &self.data
    }

    /// Bytes of memory that cached metadata takes.
    pub fn cache_memory(&self) -> u64 {
        let refcounts = self.lock().refcounts.memory();
        self.l1.memory() + self.l2.memory() + self.metadata.memory() + refcounts
    }

    /// Starts a request of an engine that does the I/O on extents itself: clusters found from now
    /// on are not given to another use before [`Image::leave`]. Keep it short: space that is
    /// freed meanwhile can not be used again, and operations on the whole image wait.
    pub fn enter(&self) -> Ticket {
        self.epochs.enter()
    }

    /// Ends what [`Image::enter`] began, on any thread.
    pub fn leave(&self, ticket: Ticket) {
        self.epochs.leave(ticket);
    }

    pub(crate) fn entered(&self) -> Entered<'_> {
        Entered {
            epochs: &self.epochs,
            ticket: Some(self.epochs.enter()),
        }
    }

    pub(crate) fn check_range(&self, offset: u64, length: u64) -> Result<()> {
        Node::check_range(offset, length, self.size())
    }

    pub(crate) fn set_size_in_memory(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }
}
