//! Requests that O_DIRECT would refuse, through an aligned buffer.

use std::io::{self, IoSlice, IoSliceMut};

use crate::aligned::AlignedBuf;

/// The largest buffer taken for one step of a bounced request.
const BOUNCE: u64 = 1 << 20;

fn is_aligned(alignment: usize, offset: u64, parts: impl Iterator<Item = (usize, usize)>) -> bool {
    let mask = alignment - 1;
    let mut bits = offset as usize;
    for (address, len) in parts {
        bits |= address | len;
    }
    bits & mask == 0
}

pub(super) fn read(
    alignment: usize,
    bufs: &mut [IoSliceMut<'_>],
    offset: u64,
    raw: impl Fn(&mut [IoSliceMut<'_>], u64) -> io::Result<()>,
) -> io::Result<()> {
    if is_aligned(
        alignment,
        offset,
        bufs.iter().map(|b| (b.as_ptr() as usize, b.len())),
    ) {
        return raw(bufs, offset);
    }
    let align = alignment as u64;
    let mut at = offset;
    for buf in bufs {
        let mut buf = &mut buf[..];
        while !buf.is_empty() {
            let start = at - at % align;
            let lead = (at - start) as usize;
            let span = (lead as u64 + buf.len() as u64)
                .next_multiple_of(align)
                .min(BOUNCE);
            let mut bounce = AlignedBuf::new(span as usize, alignment)?;
            raw(&mut [IoSliceMut::new(&mut bounce)], start)?;
            let count = buf.len().min(span as usize - lead);
            buf[..count].copy_from_slice(&bounce[lead..lead + count]);
            buf = &mut buf[count..];
            at += count as u64;
        }
    }
    Ok(())
}

/// Whether a write needs no bounce.
pub(super) fn can_write(alignment: usize, bufs: &[IoSlice<'_>], offset: u64) -> bool {
    is_aligned(
        alignment,
        offset,
        bufs.iter().map(|b| (b.as_ptr() as usize, b.len())),
    )
}

/// A bounced write. The caller keeps other writes away meanwhile.
pub(super) fn write(
    alignment: usize,
    bufs: &[IoSlice<'_>],
    offset: u64,
    raw_read: impl Fn(&mut [IoSliceMut<'_>], u64) -> io::Result<()>,
    raw_write: impl Fn(&[IoSlice<'_>], u64) -> io::Result<()>,
) -> io::Result<()> {
    let align = alignment as u64;
    let mut at = offset;
    for buf in bufs {
        let mut buf = &buf[..];
        while !buf.is_empty() {
            let start = at - at % align;
            let lead = (at - start) as usize;
            let span = (lead as u64 + buf.len() as u64)
                .next_multiple_of(align)
                .min(BOUNCE);
            let count = buf.len().min(span as usize - lead);
            let mut bounce = AlignedBuf::new(span as usize, alignment)?;
            if lead > 0 || (count as u64) < span {
                raw_read(&mut [IoSliceMut::new(&mut bounce)], start)?;
            }
            bounce[lead..lead + count].copy_from_slice(&buf[..count]);
            raw_write(&[IoSlice::new(&bounce)], start)?;
            buf = &buf[count..];
            at += count as u64;
        }
    }
    Ok(())
}
