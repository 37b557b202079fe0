//! Operations on bitmaps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{Directory, GRANULARITY, IN_USE, MAX_BYTES, MAX_NAME, bytes_for};
use super::memory::Bitmap;
use super::store::check_bits;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::state::State;

/// What there is to know of a bitmap beside its bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// Writes are marked in it, unless it is inconsistent.
    pub enabled: bool,
    /// It was in use when some program crashed, and can only be removed.
    pub inconsistent: bool,
}

impl Image {
    /// The image's bitmaps.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooLarge`], [`Error::Io`].
    pub fn bitmaps(&self) -> Result<Vec<BitmapInfo>> {
        let list = self.load_bitmaps(&mut self.lock())?;
        Ok(list
            .iter()
            .map(|bitmap| BitmapInfo {
                name: bitmap.name.clone(),
                granularity: 1 << bitmap.granularity_bits,
                enabled: bitmap.enabled.load(Ordering::Acquire),
                inconsistent: bitmap.inconsistent.is_some(),
            })
            .collect())
    }

    /// The names of the image's bitmaps, as its directory has them; their bits stay unread.
    ///
    /// # Errors
    /// As [`Image::bitmaps`].
    pub fn bitmap_names(&self) -> Result<Vec<String>> {
        let state = self.lock();
        if let Some(list) = &state.bitmaps {
            return Ok(list.iter().map(|bitmap| bitmap.name.clone()).collect());
        }
        let Some(directory) = Directory::of(&state.header)? else {
            return Ok(Vec::new());
        };
        let entries = directory.read(&*self.file, &state.header)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    /// Adds a clean, enabled bitmap. `granularity` is a power of two from 512 bytes to 2 GiB.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`], [`Error::TooLarge`]; [`Error::Unsupported`] for
    /// version 2; else as [`Image::write_at`].
    pub fn add_bitmap(&self, name: &str, granularity: u64) -> Result<()> {
        let bits = granularity.trailing_zeros();
        if !granularity.is_power_of_two() || !GRANULARITY.contains(&bits) {
            return Err(Error::Invalid(format!(
                "Granularity must be a power of two from 512 to 2 GiB, not {granularity}"
            )));
        }
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::Invalid(format!(
                "a bitmap's name has 1 to {MAX_NAME} bytes, not {}",
                name.len()
            )));
        }
        let total = bytes_for(self.size(), bits);
        if total > MAX_BYTES {
            return Err(Error::TooLarge {
                what: "bitmap",
                value: total,
                limit: MAX_BYTES,
            });
        }
        self.change_bitmaps(|list, size| {
            if list.iter().any(|bitmap| bitmap.name == name) {
                return Err(Error::Exists {
                    what: "bitmap",
                    name: name.into(),
                });
            }
            list.push(Arc::new(Bitmap::new(name.into(), bits, size)));
            Ok(())
        })
    }

    /// Removes a bitmap.
    ///
    /// # Errors
    /// [`Error::NotFound`]; else as [`Image::write_at`].
    pub fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.change_bitmaps(|list, _| {
            let before = list.len();
            list.retain(|bitmap| bitmap.name != name);
            if list.len() == before {
                Err(not_found(name))
            } else {
                Ok(())
            }
        })
    }

    /// Clears all bits of a bitmap.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for an inconsistent one; else as
    /// [`Image::write_at`].
    pub fn clear_bitmap(&self, name: &str) -> Result<()> {
        self.change_bitmaps(|list, size| {
            let empty = Arc::new(usable(list, name)?.emptied(size));
            // Should this fail, the old one has all of its marks.
            if let Some(bitmap) = list.iter_mut().find(|bitmap| bitmap.name == name) {
                *bitmap = empty;
            }
            Ok(())
        })
    }

    /// Starts or stops marking writes in a bitmap.
    ///
    /// # Errors
    /// As [`Image::clear_bitmap`].
    pub fn enable_bitmap(&self, name: &str, enabled: bool) -> Result<()> {
        self.change_bitmaps(|list, _| {
            usable(list, name)?
                .enabled
                .store(enabled, Ordering::Release);
            Ok(())
        })
    }

    /// Sets in the bitmap `target` what is set in the bitmap `source` of `from`, which may be
    /// this image or another one.
    ///
    /// # Errors
    /// As [`Image::clear_bitmap`].
    pub fn merge_bitmap(&self, target: &str, from: &Image, source: &str) -> Result<()> {
        usable(&self.load_bitmaps(&mut self.lock())?, target)?;
        let source = {
            let list = from.load_bitmaps(&mut from.lock())?;
            Arc::clone(usable(&list, source)?)
        };
        self.change_bitmaps(|list, _| {
            usable(list, target)?.merge(&source);
            Ok(())
        })
    }

    /// The first range (start, end) of guest bytes at or after `offset` that a bitmap marks.
    ///
    /// # Errors
    /// As [`Image::clear_bitmap`].
    pub fn bitmap_next(&self, name: &str, offset: u64) -> Result<Option<(u64, u64)>> {
        let list = self.load_bitmaps(&mut self.lock())?;
        let size = self.size();
        Ok(usable(&list, name)?
            .next(offset)
            .map(|(start, end)| (start, end.min(size))))
    }

    /// Changes the list of bitmaps and stores it.
    fn change_bitmaps(
        &self,
        change: impl FnOnce(&mut Vec<Arc<Bitmap>>, u64) -> Result<()>,
    ) -> Result<()> {
        let _held = self.hold_size();
        let mut state = self.lock_alone()?;
        let state = &mut *state;
        if state.header.version < 3 {
            return Err(Error::Unsupported(
                "Cannot store dirty bitmaps in qcow2 v2 files".into(),
            ));
        }
        let mut list = self.load_bitmaps(state)?;
        let before = list.clone();
        let enabled = |bitmap: &Arc<Bitmap>| bitmap.enabled.load(Ordering::Acquire);
        let flags: Vec<bool> = before.iter().map(enabled).collect();
        change(&mut list, self.size())?;
        check_bits(&list, self.size())?;
        state.bitmaps = Some(list.clone());
        if let Err(error) = self.store_bitmaps(state, IN_USE) {
            for (bitmap, flag) in before.iter().zip(flags) {
                bitmap.enabled.store(flag, Ordering::Release);
            }
            state.bitmaps = Some(before);
            return Err(error);
        }
        self.track(list);
        // A write in place that marked the bitmaps as they were may not have reached the disk: who
        // reads the disk from now on must see it, or the mark.
        self.epochs.wait();
        Ok(())
    }

    /// Gives all bitmaps the new size of the disk, and stores them.
    pub(crate) fn resize_bitmaps(&self, state: &mut State, size: u64) -> Result<()> {
        let list = self.load_bitmaps(state)?;
        if list.is_empty() {
            return Ok(());
        }
        let resized: Vec<_> = list.iter().map(|old| Arc::new(old.emptied(size))).collect();
        state.bitmaps = Some(resized.clone());
        self.track(resized.clone());
        // Writes go on: what the old ones have is complete once nothing is marked in them.
        for (new, old) in resized.iter().zip(&list) {
            new.merge(old);
        }
        self.store_bitmaps(state, IN_USE)
    }
}

fn not_found(name: &str) -> Error {
    Error::NotFound {
        what: "bitmap",
        name: name.into(),
    }
}

fn usable<'a>(list: &'a [Arc<Bitmap>], name: &str) -> Result<&'a Arc<Bitmap>> {
    let bitmap = list
        .iter()
        .find(|b| b.name == name)
        .ok_or_else(|| not_found(name))?;
    if bitmap.inconsistent.is_some() {
        return Err(Error::Invalid(format!(
            "Bitmap '{name}' is inconsistent and cannot be used"
        )));
    }
    Ok(bitmap)
}
