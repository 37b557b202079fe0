//! `rebase`: puts an image on another backing file.

use std::sync::Arc;

use strata_qcow2::{Error, Image, Node};

use super::{Common, cache, reason};
use crate::disk::{Cache, Disk, Flags, Format, full_backing_name, open_name};
use crate::getopt::Spec;
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use crate::{disk, fail};

pub(super) const PAGE: Page = Page {
    name: "rebase",
    about: "Put an image on another backing file",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Common::PROGRESS,
        Common::QUIET,
        Spec::value(
            Some('F'),
            "backing-format",
            "FORMAT",
            "Format of the new backing file",
        ),
        Spec::value(
            Some('b'),
            "backing",
            "FILENAME",
            "The new backing file; '' for none",
        ),
        Spec::flag(
            Some('u'),
            "backing-unsafe",
            "Only change the name: the contents are known to be the same",
        ),
        Spec::value(
            Some('t'),
            "cache",
            "MODE",
            "Cache mode of the image: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::value(
            Some('T'),
            "backing-cache",
            "MODE",
            "Cache mode of both backing files: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::flag(
            Some('c'),
            "compress",
            "Compress what is copied into the image",
        ),
    ],
    examples: &[
        (
            "-b new.qcow2 -F qcow2 overlay.qcow2",
            "copies what differs into the overlay",
        ),
        (
            "-u -b moved.qcow2 -F qcow2 overlay.qcow2",
            "the file was only moved",
        ),
    ],
};

/// Bytes that are compared at once.
const STEP: u64 = 2 << 20;

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut format, mut backing, mut cache_mode, mut source_cache) = (None, None, None, None);
    let (mut unsafe_mode, mut compress) = (false, false);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "backing-format" => format = Some(value),
            "backing" => backing = Some(value),
            "backing-unsafe" => unsafe_mode = true,
            "cache" => cache_mode = Some(value),
            "backing-cache" => source_cache = Some(value),
            _ => compress = true,
        }
        Ok(())
    })?;
    let name = common.one_image()?;
    if !unsafe_mode && backing.is_none() {
        return Err(Failure::usage(
            "Must specify backing file (-b) or use unsafe mode (-u)",
        ));
    }
    let progress = Progress::new(common.progress, 2);
    let cache_mode = cache(
        cache_mode.as_deref(),
        Cache::WRITEBACK,
        "Invalid cache option",
    )?;
    let source_cache = cache(
        source_cache.as_deref(),
        Cache::WRITEBACK,
        "Invalid source cache option",
    )?;
    let flags = Flags {
        no_backing: unsafe_mode,
        cache: cache_mode,
        ..Flags::write()
    };
    let disk = common.open(name, flags)?;
    if let Some(format) = &format
        && Format::from_name(format).is_none()
    {
        fail!("Invalid format name: '{format}'");
    }
    if compress && disk.image().is_none() {
        fail!("Compression not supported for this file format");
    }
    let Some(image) = disk.image() else {
        fail!(
            "Could not change the backing file to '{}': {}",
            backing.unwrap_or_default(),
            crate::report::errno_text(libc::ENOTSUP)
        );
    };
    let backing = backing.filter(|backing| !backing.is_empty());
    if !unsafe_mode {
        let flags = Flags {
            cache: source_cache,
            force_share: common.force_share,
            ..Flags::read()
        };
        let new = match &backing {
            Some(backing) => Some(new_backing(&disk, backing, format.as_deref(), flags)?),
            None => None,
        };
        Comparison::new(&disk, image, new.as_ref(), compress).run(&progress)?;
    }
    change(image, backing.as_deref(), format.as_deref())?;
    disk.close()
        .map_err(|error| Failure::new(disk::words(&error)))?;
    progress.finish();
    Ok(0)
}

/// The new backing file: a disk of its own, or a layer of the chain that is there.
enum NewBacking {
    Opened(Box<Disk>),
    InChain(Arc<Node>),
}

impl NewBacking {
    fn node(&self) -> &Node {
        match self {
            NewBacking::Opened(disk) => disk.node(),
            NewBacking::InChain(node) => node,
        }
    }
}

fn new_backing(
    disk: &Disk,
    backing: &str,
    format: Option<&str>,
    flags: Flags,
) -> Outcome<NewBacking> {
    let full = full_backing_name(&disk.name, backing)
        .map_err(|failure| failure.context("Could not resolve backing filename: "))?;
    if let Some(depth) = disk.find_layer(&full) {
        let node = disk.chain().into_iter().nth(depth);
        return node
            .map(NewBacking::InChain)
            .ok_or_else(|| Failure::new("no such layer"));
    }
    open_name(&full, format, flags)
        .map(|disk| NewBacking::Opened(Box::new(disk)))
        .map_err(|failure| {
            failure.context(format_args!(
                "Could not open new backing file '{backing}': "
            ))
        })
}

fn change(image: &Image, backing: Option<&str>, format: Option<&str>) -> Outcome<()> {
    let shown = backing.unwrap_or("(null)");
    let name = match (backing, format) {
        (None, _) => None,
        (Some(backing), Some(format)) => Some((backing, format)),
        (Some(_), None) => fail!(
            "Could not change the backing file to '{shown}': backing format must be specified"
        ),
    };
    image.set_backing_name(name).map_err(|error| {
        let why = match error {
            Error::TooLarge { .. } => "No space left in the file header".to_owned(),
            other => reason(&other),
        };
        Failure::new(format!(
            "Could not change the backing file to '{shown}': {why}"
        ))
    })
}

/// Copies into the overlay what the new backing file would show differently.
///
/// A crash on the way does no harm: the contents are the same at any time.
struct Comparison<'a> {
    disk: &'a Disk,
    old: Option<Arc<Node>>,
    new: Option<&'a NewBacking>,
    align: u64,
    compress: bool,
    /// Whether zeroes can be told from what was never written.
    has_zero_flag: bool,
}

impl<'a> Comparison<'a> {
    fn new(disk: &'a Disk, image: &Image, new: Option<&'a NewBacking>, compress: bool) -> Self {
        let geometry = image.geometry();
        let align = if compress {
            geometry.cluster_size()
        } else {
            geometry.subcluster_size()
        };
        Self {
            disk,
            old: image.backing(),
            new,
            align,
            compress,
            has_zero_flag: image.header().version >= 3,
        }
    }

    fn run(&self, progress: &Progress) -> Outcome<()> {
        let size = self.disk.size();
        let mut buffers = (vec![0; STEP as usize * 2], vec![0; STEP as usize * 2]);
        let mut offset = 0;
        while offset < size {
            let length = STEP.min(size - offset);
            let (length, concerned) = self.concerned(offset, length)?;
            if concerned {
                // Whole (sub)clusters, so that no write has to copy the rest of one.
                let start = offset - offset % self.align;
                let end = (offset + length).next_multiple_of(self.align).min(size);
                self.compare(start, end - start, &mut buffers)?;
                offset = end;
            } else {
                offset += length;
            }
            progress.at(offset, size);
        }
        Ok(())
    }

    /// Whether a range is seen through the overlay and may change with the backing file.
    fn concerned(&self, offset: u64, length: u64) -> Outcome<(u64, bool)> {
        let unreadable = |error: Error| {
            Failure::new(format!(
                "error while reading image metadata: {}",
                reason(&error)
            ))
        };
        let status = self.disk.layer_status(offset, length).map_err(unreadable)?;
        let length = status.length.min(length);
        if status.allocated {
            return Ok((length, false));
        }
        let (Some(NewBacking::InChain(new)), Some(old)) = (self.new, &self.old) else {
            return Ok((length, true));
        };
        if offset >= old.size() {
            return Ok((length, true));
        }
        if Arc::ptr_eq(old, new) {
            return Ok((length.min(old.size() - offset), false));
        }
        let above = disk::chain_status(old, Some(new), offset, length).map_err(unreadable)?;
        Ok((above.length.min(length), above.allocated))
    }

    fn compare(&self, start: u64, length: u64, buffers: &mut (Vec<u8>, Vec<u8>)) -> Outcome<()> {
        let (old, new) = buffers;
        old.resize(length as usize, 0);
        new.resize(length as usize, 0);
        let old_size = self.old.as_ref().map_or(0, |old| old.size());
        self.read(self.old.as_deref(), old, start, "old")?;
        self.read(self.new.map(NewBacking::node), new, start, "new")?;
        let unit = self.align as usize;
        let mut done = 0;
        while done < old.len() {
            let differs = |at: usize| {
                let end = (at + unit).min(old.len());
                (old[at..end] != new[at..end]).then_some(end)
            };
            let Some(mut end) = differs(done) else {
                done = (done + unit).min(old.len());
                continue;
            };
            let at = start + done as u64;
            let past_end = at >= old_size;
            while end < old.len() && (start + end as u64 >= old_size) == past_end {
                let Some(next) = differs(end) else { break };
                end = next;
            }
            self.write(&old[done..end], at, past_end).map_err(|error| {
                Failure::new(format!(
                    "Error while writing to COW image: {}",
                    reason(&error)
                ))
            })?;
            done = end;
        }
        Ok(())
    }

    fn read(&self, node: Option<&Node>, buf: &mut [u8], at: u64, which: &str) -> Outcome<()> {
        let Some(node) = node else {
            buf.fill(0);
            return Ok(());
        };
        node.read_at(buf, at)
            .map_err(|_| Failure::new(format!("error while reading from {which} backing file")))
    }

    fn write(&self, data: &[u8], at: u64, past_end: bool) -> strata_qcow2::Result<()> {
        // Without the flag, zeroes past the old backing file's end would not be stored.
        if past_end && self.has_zero_flag {
            return self.disk.write_zeroes(at, data.len() as u64, false);
        }
        if !self.compress {
            return self.disk.write(data, at);
        }
        let mut at = at;
        for cluster in data.chunks(self.align as usize) {
            self.disk.write_compressed(cluster, at)?;
            at += cluster.len() as u64;
        }
        Ok(())
    }
}
