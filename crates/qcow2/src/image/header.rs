//! Writing the header so that a torn write leaves either the old or the new one.
//!
//! Only the first sector is sure to be written whole. What it names - extensions and the backing
//! file's name in later sectors - is changed only while the first sector does not name it.

use super::Image;
use super::state::State;
use crate::error::Result;
use crate::format::{Autoclear, Header, extension};

const SECTOR: usize = 512;
/// Where a backing file's name goes when it may not overwrite the old one, in turn. Extensions
/// do not reach there.
const NAME_PLACES: [usize; 2] = [2048, 3072];

impl Image {
    /// Writes the header as it is in memory. Flushing it is left to the caller, but for what
    /// must be durable in between.
    pub(crate) fn write_header(&self, state: &mut State) -> Result<()> {
        let mut old = vec![0; self.geometry.cluster_size().min(8192) as usize];
        self.file.read_at(&mut old, 0)?;
        self.place_name(&mut state.header, &old)?;
        let new = state.header.encode()?;
        let tail = new.get(SECTOR..).unwrap_or_default();
        if tail.is_empty() || old.get(SECTOR..new.len()) == Some(tail) {
            return self.file.write_at(&new[..new.len().min(SECTOR)], 0);
        }
        let reduced = reduced(&state.header).encode()?;
        let named_elsewhere = reduced.len() <= SECTOR
            || reduced[SECTOR..]
                .iter()
                .zip(&old[SECTOR..])
                .all(|(new, old)| new == old || *new == 0);
        if !named_elsewhere {
            return self.file.write_at(&new, 0);
        }
        self.file
            .write_at(&reduced[..reduced.len().min(SECTOR)], 0)?;
        self.file.sync()?;
        self.file.write_at(tail, SECTOR as u64)?;
        self.file.sync()?;
        self.file.write_at(&new[..SECTOR], 0)
    }

    /// Finds a place for the backing file's name, and writes it there if it is a new one.
    fn place_name(&self, header: &mut Header, old: &[u8]) -> Result<()> {
        let Some(name) = header.backing_file.clone() else {
            header.name_offset = 0;
            return Ok(());
        };
        let there = old.get(header.name_offset..header.name_offset + name.len());
        let end = unnamed_len(header)?;
        if end <= header.name_offset && there == Some(name.as_bytes()) {
            return Ok(());
        }
        let before = Header::decode(old).ok();
        let old_end = before.as_ref().map_or(Ok(0), unnamed_len)?;
        let (from, to) = before.map_or((0, 0), |before| {
            let length = before.backing_file.as_deref().map_or(0, str::len);
            (before.name_offset, before.name_offset + length)
        });
        let free = |&place: &usize| {
            let room = place + name.len() <= self.geometry.cluster_size() as usize;
            let apart = place + name.len() <= from || to <= place;
            room && end.max(old_end) <= place && apart
        };
        // Right behind the extensions, where QEMU puts it, if neither header has anything there.
        let Some(place) = [end, NAME_PLACES[0], NAME_PLACES[1]].into_iter().find(free) else {
            header.name_offset = 0;
            return Ok(());
        };
        header.name_offset = place;
        self.file.write_at(name.as_bytes(), place as u64)?;
        self.file.sync()
    }
}

/// Where the extensions end, and a backing file's name may start.
fn unnamed_len(header: &Header) -> Result<usize> {
    let unnamed = Header {
        backing_file: None,
        ..header.clone()
    };
    Ok(unnamed.encode()?.len())
}

/// The header without what may be missing for a moment and reaches past the first sector.
fn reduced(header: &Header) -> Header {
    let mut reduced = header.clone();
    reduced.autoclear = reduced.autoclear.without(Autoclear::BITMAPS);
    reduced
        .extensions
        .retain(|e| e.kind != extension::FEATURE_NAMES && e.kind != extension::BITMAPS);
    reduced
}
