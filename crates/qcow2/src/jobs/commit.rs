//! Writing an overlay's data into a node below it.

use std::sync::Arc;

use super::{Progress, tell};
use crate::aligned::AlignedBuf;
use crate::create::Preallocation;
use crate::error::{Error, IoContext, Result};
use crate::node::Node;

/// Bytes copied at once: small enough to stay in the processor's cache between reading and writing.
const STEP: usize = 512 << 10;
const PAGE: usize = 4096;

/// Copies all that the nodes from `top` down to above `base` hold into `base`, which must be
/// open for writing, and makes it durable. `base` grows to the size of `top`. The overlays stay
/// as they are; [`crate::Image::make_empty`] empties one.
///
/// # Errors
/// Those of reading `top` and writing `base`; stopped half-way, `base` holds a part of the data
/// and `top` reads as before.
pub fn commit(top: &Node, base: &Arc<Node>, progress: Progress<'_>) -> Result<()> {
    let size = top.size();
    if base.size() < size {
        base.resize(size, Preallocation::Off)?;
    }
    let mut at = 0;
    // The kernel copies faster to whole pages, and O_DIRECT wants them.
    let mut buffer = AlignedBuf::new(STEP, PAGE).context("buffer", 0, STEP as u64)?;
    while at < size {
        let run = top.map(at, size - at, Some(base))?;
        if run.present {
            copy_range(
                top,
                base,
                at,
                run.length,
                run.zero,
                &mut buffer,
                &mut |done| tell(progress, at + done, size),
            )?;
        }
        at += run.length;
        tell(progress, at, size)?;
    }
    base.flush()
}

/// Copies `length` bytes at `at` from one node to another, at most as many at once as `buffer`
/// holds; `zero` says that they read as zeroes.
///
/// # Errors
/// [`Error::Invalid`] for an empty buffer; those of reading, of writing, and of `done`, which
/// hears how many bytes are copied.
pub fn copy_range(
    from: &Node,
    to: &Node,
    at: u64,
    length: u64,
    zero: bool,
    buffer: &mut [u8],
    done: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    if zero {
        to.write_zeroes(at, length, true)?;
        return done(length);
    }
    if buffer.is_empty() {
        return Err(Error::Invalid("a copy needs a buffer".into()));
    }
    let mut copied = 0;
    while copied < length {
        let step = (buffer.len() as u64).min(length - copied) as usize;
        from.read_at(&mut buffer[..step], at + copied)?;
        to.write_at(&buffer[..step], at + copied)?;
        copied += step as u64;
        done(copied)?;
    }
    Ok(())
}
