//! `commit`: moves the contents of an image into one below it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_qcow2::Node;

use super::{Common, cache, reason};
use crate::disk::{Cache, Disk, Flags, words};
use crate::getopt::Spec;
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use crate::text::size;
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "commit",
    about: "Move what an image holds into one below it",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORMAT,
        Common::PROGRESS,
        Common::QUIET,
        Spec::value(
            Some('t'),
            "cache",
            "MODE",
            "Cache mode of the image: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::value(
            Some('b'),
            "base",
            "FILENAME",
            "The image of the chain to move it into [default: the next one]",
        ),
        Spec::flag(Some('d'), "drop", "Do not empty the image afterwards"),
        Spec::value(Some('r'), "rate", "RATE", "At most so many bytes a second"),
    ],
    examples: &[
        ("top.qcow2", "into its backing file"),
        ("-b base.qcow2 top.qcow2", "into one further down"),
    ],
};

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut cache_mode, mut base, mut drop, mut rate) = (None, None, false, None);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "cache" => cache_mode = Some(value),
            "base" => base = Some(value),
            "drop" => drop = true,
            _ => rate = Some(size::any("rate limit", &value)?),
        }
        Ok(())
    })?;
    let name = common.one_image()?;
    let cache = cache(
        cache_mode.as_deref(),
        Cache::WRITEBACK,
        "Invalid cache option",
    )?;
    let depth = find_base(&common, name, base.as_deref())?;
    let progress = Progress::new(common.progress, 1);
    let flags = Flags {
        cache,
        unmap: true,
        commit_to: Some(depth),
        ..Flags::write()
    };
    let disk = common.open(name, flags)?;
    let Some(base_node) = disk.chain().into_iter().nth(depth) else {
        fail!("Image does not have a backing file");
    };
    let failed = |error| Failure::new(format!("Block job failed: {}", reason(&error)));
    copy(&disk, &base_node, rate, &progress).map_err(failed)?;
    if let Some(image) = base_node.as_qcow2() {
        image.close().map_err(failed)?;
    }
    // With -b or -d the image stays as it is.
    if !drop
        && base.is_none()
        && let Some(image) = disk.image()
    {
        image.make_empty().map_err(failed)?;
    }
    let closed = disk.close();
    closed.map_err(|error| {
        Failure::new(format!("Error while closing the image: {}", words(&error)))
    })?;
    progress.finish();
    std::mem::drop(progress);
    if !common.quiet {
        out!("Image committed.\n");
    }
    Ok(0)
}

/// How many levels below the top the base is.
fn find_base(common: &Common, name: &str, base: Option<&str>) -> Outcome<usize> {
    // Only names are looked at here: the locks are taken when the images are opened to write.
    let flags = Flags {
        no_io: true,
        force_share: true,
        ..Flags::read()
    };
    let disk = super::open_image(common.image_opts, name, common.format.as_deref(), flags)?;
    match base {
        None if disk.layers.len() > 1 => Ok(1),
        None => fail!("Image does not have a backing file"),
        Some(base) => disk.find_layer(base).ok_or_else(|| {
            Failure::new(format!(
                "Did not find '{base}' in the backing chain of '{name}'"
            ))
        }),
    }
}

fn copy(
    disk: &Disk,
    base: &Arc<Node>,
    rate: Option<u64>,
    progress: &Progress,
) -> strata_qcow2::Result<()> {
    let start = Instant::now();
    strata_qcow2::commit(disk.node(), base, &mut |done, all| {
        progress.at(done, all);
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        true
    })
}
