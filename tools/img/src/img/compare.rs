//! `compare`: whether two images read the same.

use super::{Common, cache, open_image, reason};
use crate::disk::{Cache, Disk, Flags};
use crate::getopt::Spec;
use crate::out;
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};

pub(super) const PAGE: Page = Page {
    name: "compare",
    about: "Compare what two images read as",
    operands: "FILENAME1 FILENAME2",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Spec::value(
            None,
            "a-format",
            "FORMAT",
            "Format of the first image, as -f",
        ),
        Spec::value(
            Some('F'),
            "b-format",
            "FORMAT",
            "Format of the second image",
        ),
        Spec::value(
            Some('T'),
            "cache",
            "MODE",
            "Cache mode of both images: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Common::PROGRESS,
        Common::QUIET,
        Spec::flag(
            Some('s'),
            "strict",
            "Sizes and allocation must be the same as well",
        ),
    ],
    examples: &[(
        "-f raw -F qcow2 disk.raw disk.qcow2",
        "exit code 0: the same, 1: different, more: failed",
    )],
};

/// Bytes that are read at once.
const STEP: u64 = 2 << 20;

const DIFFERENT: u8 = 1;
const OPEN_FAILED: u8 = 2;
const STATUS_FAILED: u8 = 3;
const READ_FAILED: u8 = 4;

/// One of the two images.
struct Side<'a> {
    disk: Disk,
    name: &'a str,
    buf: Vec<u8>,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut second_format, mut source_cache, mut strict) = (None, None, false);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "b-format" => second_format = Some(value),
            "cache" => source_cache = Some(value),
            _ => strict = true,
        }
        Ok(())
    })
    .map_err(|failure| {
        if failure.code == 1 && failure.hint.is_none() {
            failure.code(2)
        } else {
            failure
        }
    })?;
    let [first, second] = common.operands.as_slice() else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let cache = cache(
        source_cache.as_deref(),
        Cache::WRITEBACK,
        "Invalid source cache option",
    )
    .map_err(|failure| failure.code(OPEN_FAILED))?;
    let flags = Flags {
        cache,
        force_share: common.force_share,
        ..Flags::read()
    };
    let open = |name, format: &Option<String>| {
        open_image(common.image_opts, name, format.as_deref(), flags)
            .map(|disk| Side {
                disk,
                name,
                buf: Vec::new(),
            })
            .map_err(|failure| failure.code(OPEN_FAILED))
    };
    let mut sides = [open(first, &common.format)?, open(second, &second_format)?];
    let progress = Progress::new(common.progress, 2);
    compare(&mut sides, strict, &progress, common.quiet)
}

fn compare(
    sides: &mut [Side<'_>; 2],
    strict: bool,
    progress: &Progress,
    quiet: bool,
) -> Outcome<u8> {
    let say = |text: std::fmt::Arguments<'_>| {
        if !quiet {
            out!("{text}\n");
        }
    };
    let sizes = [sides[0].disk.size(), sides[1].disk.size()];
    let (common, longest) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
    if strict && sizes[0] != sizes[1] {
        say(format_args!("Strict mode: Image size mismatch!"));
        return Ok(DIFFERENT);
    }
    let mut offset = 0;
    while offset < common {
        let first = sides[0].status(offset, sizes[0])?;
        let second = sides[1].status(offset, sizes[1])?;
        let mut length = first.length.min(second.length);
        let kind = |status: &crate::disk::Status| (status.data, status.zero, status.allocated);
        if strict && kind(&first) != kind(&second) {
            say(format_args!(
                "Strict mode: Offset {offset} block status mismatch!"
            ));
            return Ok(DIFFERENT);
        }
        let both_zero = first.zero && second.zero;
        if !both_zero && first.allocated == second.allocated && first.allocated {
            length = length.min(STEP);
            let [left, right] = &mut *sides;
            left.read(offset, length)?;
            right.read(offset, length)?;
            if let Some(at) = first_difference(&left.buf, &right.buf) {
                say(format_args!("Content mismatch at offset {}!", offset + at));
                return Ok(DIFFERENT);
            }
        } else if !both_zero && first.allocated != second.allocated {
            length = length.min(STEP);
            let side = &mut sides[usize::from(!first.allocated)];
            side.read(offset, length)?;
            if let Some(at) = first_nonzero(&side.buf) {
                say(format_args!("Content mismatch at offset {}!", offset + at));
                return Ok(DIFFERENT);
            }
        }
        offset += length;
        progress.at(offset, longest);
    }
    if sizes[0] != sizes[1] {
        say(format_args!("Warning: Image size mismatch!"));
        let side = &mut sides[usize::from(sizes[0] < sizes[1])];
        while offset < longest {
            let status = side.status(offset, longest)?;
            let mut length = status.length;
            if status.allocated && !status.zero {
                length = length.min(STEP);
                side.read(offset, length)?;
                if let Some(at) = first_nonzero(&side.buf) {
                    say(format_args!("Content mismatch at offset {}!", offset + at));
                    return Ok(DIFFERENT);
                }
            }
            offset += length;
            progress.at(offset, longest);
        }
    }
    say(format_args!("Images are identical."));
    progress.finish();
    Ok(0)
}

impl Side<'_> {
    fn status(&self, offset: u64, size: u64) -> Outcome<crate::disk::Status> {
        self.disk.status(None, offset, size - offset).map_err(|_| {
            Failure::new(format!("Sector allocation test failed for {}", self.name))
                .code(STATUS_FAILED)
        })
    }

    fn read(&mut self, offset: u64, length: u64) -> Outcome<()> {
        self.buf.resize(length as usize, 0);
        self.disk.read(&mut self.buf, offset).map_err(|error| {
            let why = reason(&error);
            Failure::new(format!(
                "Error while reading offset {offset} of {}: {why}",
                self.name
            ))
            .code(READ_FAILED)
        })
    }
}

const SECTOR: usize = 512;

/// Start of the first sector that differs.
fn first_difference(left: &[u8], right: &[u8]) -> Option<u64> {
    let differs = left
        .chunks(SECTOR)
        .zip(right.chunks(SECTOR))
        .position(|(a, b)| a != b);
    differs.map(|sector| (sector * SECTOR) as u64)
}

/// Start of the first sector that is not all zeroes.
fn first_nonzero(buf: &[u8]) -> Option<u64> {
    let zeroes = [0; SECTOR];
    let found = buf
        .chunks(SECTOR)
        .position(|sector| *sector != zeroes[..sector.len()]);
    found.map(|sector| (sector * SECTOR) as u64)
}
