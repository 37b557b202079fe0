//! One link of a backing chain: a qcow2 image or raw bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::epoch::{Epochs, Ticket};
use crate::create::Preallocation;
use crate::error::{Error, IoContext, Result};
use crate::image::Image;
use crate::storage::{Storage, write_zero_bytes};

/// A disk that can be read, and stand below an overlay.
#[expect(
    clippy::large_enum_variant,
    reason = "a chain has few nodes, each on the heap once"
)]
pub enum Node {
    /// A qcow2 image.
    Qcow2(Image),
    /// Raw bytes.
    Raw(RawDisk),
}

/// Raw bytes as a disk. Its size is that of the storage, rounded up to sectors of 512 bytes.
pub struct RawDisk {
    storage: Arc<dyn Storage>,
    size: AtomicU64,
    /// Who may still write where the disk ended before.
    epochs: Epochs,
    /// Held by who changes the size.
    resizing: Mutex<()>,
}

impl RawDisk {
    /// Takes the storage's present length as the size.
    pub fn new(storage: Arc<dyn Storage>) -> Result<Self> {
        let size = storage
            .size()?
            .checked_next_multiple_of(512)
            .unwrap_or(u64::MAX);
        Ok(Self {
            storage,
            size: AtomicU64::new(size),
            epochs: Epochs::default(),
            resizing: Mutex::default(),
        })
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let alone = self.resizing.lock();
        let _alone = alone.unwrap_or_else(PoisonError::into_inner);
        let old = self.size.load(Ordering::Acquire);
        if size < old {
            // New requests see the new end from here on; a write from before would make the file
            // longer again.
            self.size.store(size, Ordering::SeqCst);
            self.epochs.wait();
        }
        let resized = self.storage.set_len(size).context("resize to", size, 0);
        if resized.is_err() {
            self.size.store(old, Ordering::SeqCst);
        }
        resized?;
        let more = size.saturating_sub(old);
        match preallocation {
            Preallocation::Off | Preallocation::Metadata => {}
            Preallocation::Falloc => {
                self.storage
                    .allocate(old, more)
                    .context("reserve", old, more)?;
            }
            Preallocation::Full => {
                write_zero_bytes(&*self.storage, old, more).context("zero", old, more)?;
            }
        }
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Changes a range, which stays inside of the disk meanwhile.
    fn change(
        &self,
        offset: u64,
        length: u64,
        change: impl FnOnce(&dyn Storage) -> Result<()>,
    ) -> Result<()> {
        let ticket = self.epochs.enter();
        let size = self.size.load(Ordering::SeqCst);
        let inside = Node::check_range(offset, length, size);
        let changed = inside.and_then(|()| change(&*self.storage));
        self.epochs.leave(ticket);
        changed
    }

    /// The bytes.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }
}

impl Node {
    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Node::Qcow2(image) => image.size(),
            Node::Raw(disk) => disk.size.load(Ordering::Acquire),
        }
    }

    /// Fills `buf` with what the guest sees from `offset` on; zeroes past the end of the disk.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let there = self.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, past) = buf.split_at_mut(there);
        past.fill(0);
        match self {
            _ if inside.is_empty() => Ok(()),
            Node::Qcow2(image) => image.read_at(inside, offset),
            Node::Raw(disk) => disk.storage.read_at(inside, offset),
        }
    }

    /// Writes `buf` from `offset` on, as the guest would.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        match self {
            Node::Qcow2(image) => image.write_at(buf, offset),
            Node::Raw(disk) => {
                let length = buf.len() as u64;
                disk.change(offset, length, |storage| storage.write_at(buf, offset))
            }
        }
    }

    /// Makes a range read as zeroes; `unmap` allows to free its space.
    pub fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        match self {
            Node::Qcow2(image) => image.write_zeroes(offset, length, unmap),
            Node::Raw(disk) => disk.change(offset, length, |storage| {
                storage
                    .write_zeroes(offset, length, unmap)
                    .context("zero", offset, length)
            }),
        }
    }

    /// Makes everything written durable.
    pub fn flush(&self) -> Result<()> {
        match self {
            Node::Qcow2(image) => image.flush(),
            Node::Raw(disk) => disk.storage.sync(),
        }
    }

    /// Starts a request of an engine that does the I/O itself: what it finds inside of the disk from
    /// now on stays so before [`Node::leave`], and clusters are not given to another use. See
    /// [`Image::enter`].
    pub fn enter(&self) -> Ticket {
        match self {
            Node::Qcow2(image) => image.enter(),
            Node::Raw(disk) => disk.epochs.enter(),
        }
    }

    /// Ends what [`Node::enter`] began, on any thread.
    pub fn leave(&self, ticket: Ticket) {
        match self {
            Node::Qcow2(image) => image.leave(ticket),
            Node::Raw(disk) => disk.epochs.leave(ticket),
        }
    }

    /// Changes the size in bytes. One that becomes smaller waits for requests that have begun.
    pub fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        match self {
            Node::Qcow2(image) => image.resize(size, preallocation),
            Node::Raw(disk) => disk.resize(size, preallocation),
        }
    }

    /// The qcow2 image, if this is one.
    pub fn as_qcow2(&self) -> Option<&Image> {
        match self {
            Node::Qcow2(image) => Some(image),
            Node::Raw(_) => None,
        }
    }

    /// The next node below this one.
    pub fn backing(&self) -> Option<Arc<Node>> {
        self.as_qcow2().and_then(Image::backing)
    }

    /// Fails for a range that is not inside of a disk of `size` bytes.
    pub(crate) fn check_range(offset: u64, length: u64, size: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                length,
                size,
            }),
        }
    }
}
