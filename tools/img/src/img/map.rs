//! `map`: where the data of each range lies.

use super::{Common, Output, reason};
use crate::disk::{Disk, Flags};
use crate::getopt::Spec;
use crate::page::Page;
use crate::report::Outcome;
use crate::text::size;
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "map",
    about: "Show where the data of each range lies",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::FORMAT,
        Common::OUTPUT,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Spec::value(
            Some('s'),
            "start-offset",
            "OFFSET",
            "Where to begin [default: 0]",
        ),
        Spec::value(
            Some('l'),
            "max-length",
            "LENGTH",
            "How far to go [default: to the end]",
        ),
    ],
    examples: &[(
        "--output=json disk.qcow2",
        "with holes and zeroes, for programs",
    )],
};

/// A run of bytes whose mapping is of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    start: u64,
    length: u64,
    depth: u64,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    offset: Option<u64>,
    file: Option<String>,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut start, mut length) = (0, None);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "start-offset" => start = size::any("start offset", &value)?,
            _ => length = Some(size::any("max length", &value)?),
        }
        Ok(())
    })?;
    let name = common.one_image()?;
    let output = common.output()?;
    let disk = common.open(name, Flags::read())?;
    let end = length.map_or(disk.size(), |length| {
        disk.size().min(start.saturating_add(length))
    });
    match output {
        Output::Human => {
            out!(
                "{:<16}{:<16}{:<16}{}\n",
                "Offset",
                "Length",
                "Mapped to",
                "File"
            );
        }
        Output::Json => out!("["),
    }
    let mut current: Option<Entry> = None;
    let mut at = start;
    while at < end {
        let mut next = entry(&disk, at, end - at)?;
        at += next.length;
        match &mut current {
            Some(entry) if mergeable(entry, &next) => entry.length += next.length,
            Some(entry) => {
                print(output, entry, true)?;
                if output == Output::Human && (!next.data || next.zero) {
                    // This format shows data only, so that all else may merge.
                    (next.data, next.zero) = (false, true);
                }
                current = Some(next);
            }
            None => current = Some(next),
        }
    }
    match &current {
        Some(entry) => print(output, entry, false)?,
        None if output == Output::Json => {
            out!(
                "{{ \"start\": {start}, \"length\": 0, \"depth\": 0, \"present\": false, \
                 \"zero\": false, \"data\": false, \"compressed\": false}}"
            );
        }
        None => {}
    }
    if output == Output::Json {
        out!("]\n");
    }
    Ok(0)
}

fn entry(disk: &Disk, offset: u64, length: u64) -> Outcome<Entry> {
    let status = match disk.status(None, offset, length) {
        Ok(status) => status,
        Err(error) => fail!("Could not read file metadata: {}", reason(&error)),
    };
    let layer = &disk.layers.get(status.depth as usize);
    let file = status
        .offset
        .and_then(|_| match (status.depth, &disk.data_file_name) {
            (0, Some(data_file)) => Some(data_file.clone()),
            (0, None) => Some(disk.file_name.clone()),
            _ => layer.map(|layer| layer.name.clone()),
        });
    Ok(Entry {
        start: offset,
        length: status.length,
        depth: status.depth,
        present: status.allocated,
        zero: status.zero,
        data: status.data,
        compressed: status.compressed,
        offset: status.offset,
        file,
    })
}

fn mergeable(first: &Entry, next: &Entry) -> bool {
    let follows = match (first.offset, next.offset) {
        (Some(offset), Some(next)) => offset.checked_add(first.length) == Some(next),
        (None, None) => true,
        _ => false,
    };
    let as_first = Entry {
        start: first.start,
        length: first.length,
        offset: first.offset,
        ..next.clone()
    };
    follows && as_first == *first
}

fn print(output: Output, entry: &Entry, more: bool) -> Outcome<()> {
    match output {
        Output::Human => {
            if entry.data && entry.offset.is_none() {
                fail!("File contains external, encrypted or compressed clusters.");
            }
            if let (true, false, Some(offset)) = (entry.data, entry.zero, entry.offset) {
                out!(
                    "{:<16}{:<16}{:<16}{}\n",
                    hex(entry.start),
                    hex(entry.length),
                    hex(offset),
                    entry.file.as_deref().unwrap_or_default()
                );
            }
        }
        Output::Json => {
            out!(
                "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
                 \"data\": {}, \"compressed\": {}",
                entry.start,
                entry.length,
                entry.depth,
                entry.present,
                entry.zero,
                entry.data,
                entry.compressed
            );
            if let Some(offset) = entry.offset {
                out!(", \"offset\": {offset}");
            }
            out!("}}{}", if more { ",\n" } else { "" });
        }
    }
    Ok(())
}

/// C's `%#x`: zero has no prefix.
fn hex(value: u64) -> String {
    if value == 0 {
        "0".to_owned()
    } else {
        format!("{value:#x}")
    }
}
