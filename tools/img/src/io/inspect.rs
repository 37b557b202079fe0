//! `length`, `info`, `alloc` and `map`.

use super::arguments::{Read, Refused, number};
use super::commands::{Shell, failed};
use crate::disk::Disk;
use crate::out;
use crate::report::{errno_text, error};
use crate::text::size::exact;

pub(super) fn length(shell: &mut Shell, _: &[String]) -> Read<()> {
    out!("{}\n", exact(shell.disk()?.size() as f64));
    Ok(())
}

pub(super) fn info(shell: &mut Shell, _: &[String]) -> Read<()> {
    let disk = shell.disk()?;
    match disk.protocol() {
        // Once as the driver and once as the protocol that it is.
        Some(name) => out!("format name: {name}\nformat name: {name}\n"),
        None => out!("format name: {}\n", disk.format.name()),
    }
    let (cluster_size, vm_state) = match disk.image() {
        Some(image) => {
            let geometry = image.geometry();
            let l1_entries = geometry.l1_entries(image.size());
            (geometry.cluster_size(), l1_entries << geometry.l1_shift())
        }
        // The only driver that has nothing to tell, not even of a format on top of it.
        None if disk.file_driver.starts_with("null") => return Err(Refused),
        None => (0, 0),
    };
    out!("cluster size: {}\n", exact(cluster_size as f64));
    out!("vm state offset: {}\n", exact(vm_state as f64));
    crate::img::print_format_specific(disk);
    Ok(())
}

/// How many bytes of a range the top layer holds.
pub(super) fn alloc(shell: &mut Shell, words: &[String]) -> Read<()> {
    let offset = number(&words[0])?;
    let mut count = words.get(1).map_or(Ok(512), |word| number(word))?;
    let disk = shell.disk()?;
    let (mut at, mut remaining, mut allocated) = (offset, count, 0);
    while remaining > 0 {
        let (length, held) =
            allocation(disk, at, remaining).or_else(|error| failed("is_allocated", &error))?;
        if length == 0 {
            count -= remaining;
            break;
        }
        if held {
            allocated += length;
        }
        at += length;
        remaining -= length;
    }
    let at = exact(offset as f64);
    out!("{allocated}/{count} bytes allocated at offset {at}\n");
    Ok(())
}

pub(super) fn map(shell: &mut Shell, _: &[String]) -> Read<()> {
    let disk = shell.disk()?;
    let size = disk.size();
    let mut start = 0;
    while start < size {
        let (mut length, held) = status(disk, start, size - start)?;
        while start + length < size {
            let at = start + length;
            match status(disk, at, size - at)? {
                (more, same) if same == held && more > 0 => length += more,
                _ => break,
            }
        }
        if length == 0 {
            error("Unexpected end of image");
            return Err(Refused);
        }
        let state = if held {
            "    allocated"
        } else {
            "not allocated"
        };
        let (count, at) = (exact(length as f64), exact(start as f64));
        out!("{count} ({length:#x}) bytes {state} at offset {at} ({start:#x})\n");
        start += length;
    }
    Ok(())
}

fn status(disk: &Disk, offset: u64, length: u64) -> Read<(u64, bool)> {
    allocation(disk, offset, length).map_err(|failure| {
        let why = errno_text(crate::disk::errno(&failure));
        error(format_args!("Failed to get allocation status: {why}"));
        Refused
    })
}

fn allocation(disk: &Disk, offset: u64, length: u64) -> strata_qcow2::Result<(u64, bool)> {
    if offset >= disk.size() {
        return Ok((0, false));
    }
    let status = disk.layer_status(offset, length)?;
    Ok((status.length, status.allocated))
}
