//! Putting an overlay onto another backing file.

use std::sync::Arc;

use super::{Progress, tell};
use crate::error::{Error, Result};
use crate::image::{Extent, Image};
use crate::node::Node;

/// Bytes compared at once.
const STEP: u64 = 1 << 20;

/// Makes `image` stand on `new` without changing what it reads as: where the old and the new
/// backing differ, the old data is copied into the image first. `name` is the new backing file's
/// name and format as the image shall store them.
///
/// For the unsafe kind, which changes the name alone, see [`Image::set_backing_name`].
///
/// # Errors
/// Those of reading either backing and of writing the image. Stopped half-way, the image stands
/// on the old backing and reads as before.
pub fn rebase(
    image: &Image,
    new: Option<Arc<Node>>,
    name: Option<(&str, &str)>,
    progress: Progress<'_>,
) -> Result<()> {
    if new.is_some() != name.is_some() {
        return Err(Error::Invalid(
            "a backing node and its name go together".into(),
        ));
    }
    let size = image.size();
    let old = image.backing();
    if old.is_none() && image.header().backing_file.is_some() {
        return Err(Error::NotAllowed(
            image.header().backing_file.unwrap_or_default(),
        ));
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < size {
        let (extent, length) = image.extent(at, (size - at).min(STEP))?;
        if extent == Extent::Unallocated {
            before.resize(length as usize, 0);
            after.resize(length as usize, 0);
            read(old.as_deref(), &mut before, at)?;
            read(new.as_deref(), &mut after, at)?;
            copy_differences(image, &before, &after, at)?;
        }
        at += length;
        tell(progress, at, size)?;
    }
    image.flush()?;
    image.set_backing_name(name)?;
    image.set_backing(new);
    Ok(())
}

fn read(node: Option<&Node>, buf: &mut [u8], at: u64) -> Result<()> {
    match node {
        Some(node) => node.read_at(buf, at),
        None => {
            buf.fill(0);
            Ok(())
        }
    }
}

/// Writes the units of `before` that are not the same in `after`, where nothing else has been written
/// meanwhile.
fn copy_differences(image: &Image, before: &[u8], after: &[u8], at: u64) -> Result<()> {
    let unit = image.geometry().subcluster_size().max(4096);
    let mut start = 0;
    while start < before.len() {
        let end = ((at + start as u64) / unit * unit + unit - at).min(before.len() as u64) as usize;
        if before[start..end] != after[start..end] {
            image.fill_at(&before[start..end], at + start as u64)?;
        }
        start = end;
    }
    Ok(())
}
