//! What stands below an image.

use std::sync::{Arc, PoisonError};

use super::{BackingState, Image};
use crate::error::{Error, Result};
use crate::format::extension;
use crate::format::header::MAX_BACKING_NAME;
use crate::node::Node;

impl Image {
    /// The node below this image, if one is open.
    pub fn backing(&self) -> Option<Arc<Node>> {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            BackingState::Node(node) => Some(Arc::clone(node)),
            _ => None,
        }
    }

    /// Puts another node below this image, in memory only. What the guest reads must be the
    /// same through it; see [`Image::set_backing_name`] for the image's own word. Waits for the
    /// requests that are under way: they may have seen that something lies in the old node which
    /// has been copied up since.
    pub fn set_backing(&self, node: Option<Arc<Node>>) {
        let _state = self.lock();
        self.epochs.wait();
        let new = node.map_or(BackingState::None, BackingState::Node);
        *self.backing.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Stores the name and format of the backing file, or that there is none.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a name that does not fit; [`Error::Invalid`] with a raw external
    /// data file; else as [`Image::write_at`].
    pub fn set_backing_name(&self, name: Option<(&str, &str)>) -> Result<()> {
        let mut state = self.lock_alone()?;
        self.sync(&mut state)?;
        let mut header = state.header.clone();
        if let Some((name, _)) = name {
            if name.len() > MAX_BACKING_NAME {
                let (value, limit) = (name.len() as u64, MAX_BACKING_NAME as u64);
                return Err(Error::TooLarge {
                    what: "backing file name",
                    value,
                    limit,
                });
            }
            if header
                .autoclear
                .has(crate::format::Autoclear::DATA_FILE_RAW)
            {
                return Err(Error::Invalid(
                    "Cannot set a backing file on an image with data_file_raw".into(),
                ));
            }
        }
        header.backing_file = name.map(|(name, _)| name.to_string());
        let format = name.map(|(_, format)| format.as_bytes().to_vec());
        let format = format.filter(|format| !format.is_empty());
        extension::set_first(&mut header.extensions, extension::BACKING_FORMAT, format);
        header.encode()?;
        state.header = header;
        self.or_break(
            self.write_header(&mut state)
                .and_then(|()| self.file.sync()),
        )
    }

    /// Whether nothing below this image has data at `offset` or after it.
    pub(crate) fn backing_ends_before(&self, offset: u64) -> bool {
        match &*self.backing.read().unwrap_or_else(PoisonError::into_inner) {
            BackingState::None => true,
            BackingState::Closed(_) => false,
            BackingState::Node(node) => node.size() <= offset,
        }
    }

    /// Gives all guest data of this image up, so that the disk reads as what lies below.
    ///
    /// # Errors
    /// As [`Image::write_at`].
    pub fn make_empty(&self) -> Result<()> {
        let _held = self.hold_size();
        self.check_write(0, 0)?;
        let end = self.size().next_multiple_of(self.geometry.cluster_size());
        self.drop_clusters(0, end)?;
        self.flush()
    }
}
