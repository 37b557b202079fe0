//! Loading bitmaps from an image and storing them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{ALL_ONES, AUTO, Directory, DirectoryEntry, IN_USE, bytes_for, references};
use super::memory::Bitmap;
use crate::error::{Error, Result};
use crate::format::entry::OFFSET_MASK;
use crate::format::extension::{self, BITMAPS};
use crate::format::{Autoclear, bytes};
use crate::image::Image;
use crate::image::state::State;

/// Bytes of bits that the bitmaps of one image may have, set or not. Bitmaps beyond that are kept
/// as if they were inconsistent: an image can claim terabytes of them in a small file.
const MAX_BITS: u64 = 1 << 30;
/// Bytes of bits that loading may fill from clusters, unless the file is larger: many table entries
/// can name one cluster.
const MAX_LOADED: u64 = 64 << 20;

/// Fails if the bits of these bitmaps, over a disk of `size` bytes, are more than an image may
/// have.
pub(super) fn check_bits(list: &[Arc<Bitmap>], size: u64) -> Result<()> {
    let value = list.iter().map(|bitmap| bitmap.bytes(size)).sum();
    if value > MAX_BITS {
        return Err(Error::TooLarge {
            what: "bitmaps",
            value,
            limit: MAX_BITS,
        });
    }
    Ok(())
}

impl Image {
    /// The image's bitmaps, loaded when they are first asked for.
    pub(crate) fn load_bitmaps(&self, state: &mut State) -> Result<Vec<Arc<Bitmap>>> {
        if let Some(list) = &state.bitmaps {
            return Ok(list.clone());
        }
        let mut list = Vec::new();
        if let Some(directory) = Directory::of(&state.header)? {
            let (mut bits, mut room) = (0, MAX_LOADED.max(self.file.size()?));
            for entry in directory.read(&*self.file, &state.header)? {
                let bytes = bytes_for(state.header.size, entry.granularity_bits);
                let usable = entry.flags & IN_USE == 0 && bytes <= MAX_BITS - bits;
                let loaded = match usable {
                    true => self.load_bitmap(state, &entry, &mut room)?,
                    false => None,
                };
                let bitmap = loaded.unwrap_or_else(|| {
                    Bitmap::unusable(DirectoryEntry {
                        flags: entry.flags | IN_USE,
                        ..entry
                    })
                });
                bits += bitmap.bytes(state.header.size);
                list.push(Arc::new(bitmap));
            }
        }
        state.bitmaps = Some(list.clone());
        Ok(list)
    }

    /// Loads a bitmap; None if that would take more than `room` bytes.
    fn load_bitmap(
        &self,
        state: &State,
        entry: &DirectoryEntry,
        room: &mut u64,
    ) -> Result<Option<Bitmap>> {
        let size = state.header.size;
        let mut bitmap = Bitmap::new(entry.name.clone(), entry.granularity_bits, size);
        bitmap.enabled = (entry.flags & AUTO != 0).into();
        bitmap.extra.clone_from(&entry.extra);
        let step = self.geometry.cluster_size();
        let mut raw = vec![0; step as usize];
        for (number, word) in entry
            .table(&*self.file, &state.header)?
            .into_iter()
            .enumerate()
        {
            let offset = word & OFFSET_MASK;
            let from = number * step as usize;
            if offset == 0 {
                if word & ALL_ONES != 0 {
                    bitmap.fill(from, step as usize);
                }
                continue;
            }
            if *room < step {
                return Ok(None);
            }
            *room -= step;
            self.file.read_at(&mut raw, offset)?;
            bitmap.load(from, &raw);
        }
        Ok(Some(bitmap))
    }

    /// Before the first write: the enabled bitmaps are marked as in use, and tracked.
    pub(crate) fn begin_tracking(&self, state: &mut State) -> Result<()> {
        let Some(directory) = Directory::of(&state.header)? else {
            return Ok(());
        };
        let list = self.load_bitmaps(state)?;
        let mut entries = directory.read(&*self.file, &state.header)?;
        for entry in &mut entries {
            if entry.flags & AUTO != 0 {
                entry.flags |= IN_USE;
            }
        }
        self.file.write_at(&encode(&entries), directory.offset)?;
        self.file.sync()?;
        self.track(list);
        Ok(())
    }

    /// Marks writes in the enabled ones of these.
    pub(crate) fn track(&self, list: Vec<Arc<Bitmap>>) {
        let live = |bitmap: &Arc<Bitmap>| {
            bitmap.inconsistent.is_none() && bitmap.enabled.load(Ordering::Acquire)
        };
        self.tracker.set(list.into_iter().filter(live).collect());
    }

    /// Writes all bitmaps to new places, makes the header name them, and frees the old places.
    /// Enabled ones get the flags `enabled_flags` beside AUTO.
    pub(crate) fn store_bitmaps(&self, state: &mut State, enabled_flags: u32) -> Result<()> {
        let Some(list) = state.bitmaps.clone() else {
            return Ok(());
        };
        let old = references(&*self.file, &state.header)?;
        let kept = self.kept(state, &list)?;
        let mut entries = Vec::new();
        for bitmap in &list {
            match &bitmap.inconsistent {
                Some(entry) => entries.push(entry.clone()),
                None => entries.push(self.store_bitmap(state, bitmap, enabled_flags)?),
            }
        }
        let raw = encode(&entries);
        let clusters = self.geometry.clusters(raw.len() as u64);
        let place = self.allocate_exact(state, "bitmap directory", clusters)?;
        self.file.write_at(&raw, place.offset)?;
        self.protect(place.offset, clusters)?;
        self.sync(state)?;

        // The extension may lie in another sector than the flag: the flag goes first.
        self.set_bitmaps_flag(state, false)?;
        let directory = Directory {
            count: entries.len() as u32,
            size: raw.len() as u64,
            offset: place.offset,
        };
        let data = (!entries.is_empty()).then(|| directory.encode());
        extension::set(&mut state.header.extensions, BITMAPS, data);
        self.or_break(self.write_header(state).and_then(|()| self.file.sync()))?;
        if !entries.is_empty() {
            self.set_bitmaps_flag(state, true)?;
        }
        self.free_references(state, &old, &kept)
    }

    /// Takes the stored form of all bitmaps out of the image; they stay in memory, for a disk of
    /// `size` bytes. False if there are none.
    pub(crate) fn unstore_bitmaps(&self, state: &mut State, size: u64) -> Result<bool> {
        let list = self.load_bitmaps(state)?;
        check_bits(&list, size)?;
        if list.is_empty() {
            return Ok(false);
        }
        let old = references(&*self.file, &state.header)?;
        let kept = self.kept(state, &list)?;
        extension::set(&mut state.header.extensions, BITMAPS, None);
        self.set_bitmaps_flag(state, false)?;
        self.free_references(state, &old, &kept)?;
        Ok(true)
    }

    /// Offsets of what inconsistent bitmaps take, sorted; it stays where it is.
    fn kept(&self, state: &State, list: &[Arc<Bitmap>]) -> Result<Vec<u64>> {
        let mut kept = Vec::new();
        for entry in list
            .iter()
            .filter_map(|bitmap| bitmap.inconsistent.as_ref())
        {
            kept.push(entry.table_offset);
            let table = entry.table(&*self.file, &state.header)?;
            kept.extend(table.iter().map(|word| word & OFFSET_MASK));
        }
        kept.sort_unstable();
        Ok(kept)
    }

    fn free_references(&self, state: &mut State, old: &[(u64, u64)], kept: &[u64]) -> Result<()> {
        for &(offset, length) in old {
            if kept.binary_search(&offset).is_err() {
                self.free_now(state, offset, self.geometry.clusters(length))?;
            }
        }
        Ok(())
    }

    fn set_bitmaps_flag(&self, state: &mut State, on: bool) -> Result<()> {
        let header = &mut state.header;
        header.autoclear = if on {
            header.autoclear.with(Autoclear::BITMAPS)
        } else {
            header.autoclear.without(Autoclear::BITMAPS)
        };
        self.or_break(self.write_header(state).and_then(|()| self.file.sync()))
    }

    fn protect(&self, offset: u64, clusters: u64) -> Result<()> {
        let first = offset >> self.geometry.cluster_bits;
        (first..first + clusters).try_for_each(|cluster| self.metadata.insert(cluster))
    }

    fn store_bitmap(
        &self,
        state: &mut State,
        bitmap: &Bitmap,
        enabled_flags: u32,
    ) -> Result<DirectoryEntry> {
        let step = self.geometry.cluster_size();
        let total = bytes_for(state.header.size, bitmap.granularity_bits);
        let entries = total.div_ceil(step);
        let mut table = Vec::new();
        for number in 0..entries {
            let (from, count) = (number * step, step.min(total - number * step) as usize);
            if let Some(set) = bitmap.uniform(from as usize, count) {
                table.push(if set { ALL_ONES } else { 0 });
                continue;
            }
            let mut raw = bitmap.to_bytes(from as usize, count);
            raw.resize(step as usize, 0);
            if raw.iter().all(|&byte| byte == 0) {
                table.push(0);
            } else if raw.iter().all(|&byte| byte == 0xff) {
                table.push(ALL_ONES);
            } else {
                let place = self.allocate_exact(state, "bitmap", 1)?;
                self.file.write_at(&raw, place.offset)?;
                self.protect(place.offset, 1)?;
                table.push(place.offset);
            }
        }
        // Even an empty table has a place.
        let clusters = self.geometry.clusters(entries * 8).max(1);
        let place = self.allocate_exact(state, "bitmap table", clusters)?;
        self.file
            .write_at(&bytes::from_words(table), place.offset)?;
        self.protect(place.offset, clusters)?;
        let enabled = bitmap.enabled.load(Ordering::Acquire);
        Ok(DirectoryEntry {
            table_offset: place.offset,
            table_size: entries as u32,
            flags: if enabled { AUTO | enabled_flags } else { 0 },
            granularity_bits: bitmap.granularity_bits,
            name: bitmap.name.clone(),
            extra: bitmap.extra.clone(),
        })
    }
}

fn encode(entries: &[DirectoryEntry]) -> Vec<u8> {
    let mut raw = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut raw));
    raw
}
