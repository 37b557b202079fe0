//! `convert`: copies images into a new one, of any format.

use super::copy::{Plan, Sources};
use super::create::{add_backing, option_help};
use super::{Common, accumulate, cache, open_image};
use crate::disk::{self, Cache, Disk, Flags, Format};
use crate::fail;
use crate::getopt::Spec;
use crate::options::{Values, create_table};
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use crate::text::{keyval, size};

pub(super) const PAGE: Page = Page {
    name: "convert",
    about: "Copy images into a new one of any format",
    operands: "FILENAME [FILENAME2 ..] TARGET",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Common::PROGRESS,
        Common::QUIET,
        Spec::flag(
            None,
            "target-image-opts",
            "TARGET is a list of options, not a name; needs -n",
        ),
        Spec::flag(
            None,
            "salvage",
            "Go on after read errors, with zeroes in their place",
        ),
        Spec::flag(
            None,
            "target-is-zero",
            "The target reads as zeroes already; needs -n",
        ),
        Spec::flag(None, "bitmaps", "Copy the persistent bitmaps as well"),
        Spec::flag(
            None,
            "skip-broken-bitmaps",
            "Leave out bitmaps that can not be read, instead of failing",
        ),
        Spec::value(
            None,
            "source-format",
            "FORMAT",
            "Format of the sources, as -f",
        ),
        Spec::flag(None, "source-image-opts", "As --image-opts"),
        Spec::value(
            Some('O'),
            "target-format",
            "FORMAT",
            "Format of the target [default: raw]",
        ),
        Spec::value(
            Some('B'),
            "backing",
            "FILENAME",
            "Leave out what this backing file of the target has already",
        ),
        Spec::value(
            Some('F'),
            "backing-format",
            "FORMAT",
            "Format of that backing file",
        ),
        Spec::flag(
            Some('C'),
            "copy-range-offloading",
            "As qemu-img's: accepted, without effect",
        ),
        Spec::flag(Some('c'), "compress", "Write compressed clusters (qcow2)"),
        Spec::value(
            Some('o'),
            "target-options",
            "OPTIONS",
            "Options of the target, as NAME=VALUE,..; `-o help` lists them",
        ),
        Spec::value(
            Some('l'),
            "source-snapshot",
            "SNAPSHOT",
            "Copy an internal snapshot: snapshot.name=NAME, snapshot.id=ID, or either",
        ),
        Spec::value(
            Some('S'),
            "sparse-size",
            "SIZE",
            "Make holes of runs of zeroes that are at least so long [default: 4k; 0 writes everything]",
        ),
        Spec::value(
            Some('t'),
            "target-cache",
            "MODE",
            "Cache mode of the target [default: unsafe, which flushes nothing]",
        ),
        Spec::value(
            Some('T'),
            "source-cache",
            "MODE",
            "Cache mode of the sources: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::flag(Some('n'), "no-create", "Copy into a target that exists"),
        Spec::value(
            Some('m'),
            "parallel",
            "COUNT",
            "Requests at once, 1 to 16 [default: 8]",
        ),
        Spec::flag(
            Some('W'),
            "oob-writes",
            "Write in any order, which is faster where the target is preallocated",
        ),
        Spec::value(Some('r'), "rate", "RATE", "At most so many bytes a second"),
    ],
    examples: &[
        (
            "-p -f raw -O qcow2 disk.raw disk.qcow2",
            "show the progress",
        ),
        (
            "-c -O qcow2 -o compression_type=zstd big.qcow2 small.qcow2",
            "compress",
        ),
    ],
};

/// Most threads that `-m` allows.
const MAX_PARALLEL: u64 = 16;
/// Longest run of zeroes that `-S` may ask for.
const MAX_SPARSE: u64 = 32768 * 512;

#[derive(Debug)]
struct Job {
    output_format: Option<String>,
    backing: Option<String>,
    backing_format: Option<String>,
    options: Option<String>,
    snapshot: Option<String>,
    cache: Option<String>,
    source_cache: Option<String>,
    target_image_opts: bool,
    salvage: bool,
    target_is_zero: bool,
    bitmaps: bool,
    skip_broken: bool,
    copy_range: bool,
    compress: bool,
    no_create: bool,
    any_order: bool,
    sparse: Option<u64>,
    parallel: u64,
    rate_limit: Option<u64>,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut job = Job::new();
    let common = Common::parse(args, &PAGE, |name, value| job.take(name, value))?;
    job.check()?;
    let format = match (&job.output_format, job.target_image_opts) {
        (None, true) => None,
        (name, _) => Some(name.as_deref().unwrap_or("raw").to_owned()),
    };
    let (target, sources) = match common.operands.split_last() {
        Some((target, sources)) if !sources.is_empty() => (Some(target), sources),
        _ => (None, &[][..]),
    };
    if job.options.as_deref().is_some_and(keyval::asks_for_help) {
        let Some(format) = &format else {
            fail!("Option help requires a format be specified")
        };
        return option_help(format, target.is_some());
    }
    let Some(target) = target else {
        fail!("Must specify image file name")
    };
    job.convert(&common, sources, target, format.as_deref())?;
    Ok(0)
}

impl Job {
    fn new() -> Self {
        Self {
            output_format: None,
            backing: None,
            backing_format: None,
            options: None,
            snapshot: None,
            cache: None,
            source_cache: None,
            target_image_opts: false,
            salvage: false,
            target_is_zero: false,
            bitmaps: false,
            skip_broken: false,
            copy_range: false,
            compress: false,
            no_create: false,
            any_order: false,
            sparse: None,
            parallel: 8,
            rate_limit: None,
        }
    }

    fn take(&mut self, name: &str, value: String) -> Outcome<()> {
        match name {
            "target-image-opts" => self.target_image_opts = true,
            "salvage" => self.salvage = true,
            "target-is-zero" => self.target_is_zero = true,
            "bitmaps" => self.bitmaps = true,
            "skip-broken-bitmaps" => self.skip_broken = true,
            "target-format" => self.output_format = Some(value),
            "backing" => self.backing = Some(value),
            "backing-format" => self.backing_format = Some(value),
            "copy-range-offloading" => self.copy_range = true,
            "compress" => self.compress = true,
            "target-options" => accumulate(&mut self.options, &value)?,
            "source-snapshot" => {
                super::snapshot::check_parameter(&value)?;
                self.snapshot = Some(value);
            }
            "sparse-size" => self.sparse = Some(sparse(&value)?),
            "target-cache" => self.cache = Some(value),
            "source-cache" => self.source_cache = Some(value),
            "no-create" => self.no_create = true,
            "parallel" => self.parallel = parallel(&value)?,
            "oob-writes" => self.any_order = true,
            _ => self.rate_limit = Some(size::any("rate limit", &value)?),
        }
        Ok(())
    }

    fn check(&self) -> Outcome<()> {
        if self.skip_broken && !self.bitmaps {
            fail!("Use of --skip-broken-bitmaps requires --bitmaps");
        }
        if self.compress && self.copy_range {
            fail!("Cannot enable copy offloading when -c is used");
        }
        if self.sparse.is_some() && self.copy_range {
            fail!("Cannot enable copy offloading when -S is used");
        }
        if self.copy_range && self.salvage {
            fail!("Cannot use copy offloading in salvaging mode");
        }
        if self.target_image_opts && !self.no_create {
            fail!("--target-image-opts requires use of -n flag");
        }
        if self.no_create && self.options.is_some() {
            fail!("-o has no effect when skipping image creation");
        }
        if self.target_is_zero && !self.no_create {
            fail!("--target-is-zero requires use of -n flag");
        }
        Ok(())
    }

    fn convert(
        &self,
        common: &Common,
        names: &[String],
        target: &str,
        format: Option<&str>,
    ) -> Outcome<()> {
        const COMPLAINT: &str = "Invalid source cache option";
        let source_cache = cache(self.source_cache.as_deref(), Cache::WRITEBACK, COMPLAINT)?;
        let progress = Progress::new(common.progress, 1);
        let sources = self.open_sources(common, names, source_cache)?;
        let mut values = None;
        if let (false, Some(format)) = (self.no_create, format) {
            values = Some(self.values(Format::require(format)?, sources.size())?);
        }
        let backing = values
            .as_ref()
            .and_then(|(_, values)| values.text("backing_file"))
            .or(self.backing.as_deref())
            .map(str::to_owned);
        self.check_target(names, &values, backing.is_some())?;
        if self.bitmaps {
            if names.len() > 1 {
                fail!("Copying bitmaps only possible with single source");
            }
            super::bitmap::check_copy(sources.first(), self.skip_broken)?;
        }
        if let Some((format, values)) = &values {
            disk::create(target, *format, values).map_err(|failure| {
                failure.code(1).context(format_args!(
                    "{target}: error while converting {}: ",
                    format.name()
                ))
            })?;
        }
        let disk = self.open_target(target, format, &values)?;
        if self.no_create && disk.size() < sources.size() {
            fail!("output file is smaller than input file");
        }
        if self.bitmaps && disk.format != Format::Qcow2 {
            fail!(
                "Format driver '{}' does not support bitmaps",
                disk.format.name()
            );
        }
        let new = !self.no_create;
        let plan = Plan {
            sources: &sources,
            zeroed: self.target_is_zero
                || (new && backing.is_none() && self.min_sparse() > 0 && disk.starts_zeroed()),
            backing: backing.map(|_| {
                disk.node()
                    .backing()
                    .filter(|_| new)
                    .map(|below| below.size())
            }),
            compressed: self.compress,
            min_sparse: self.min_sparse(),
            salvage: self.salvage,
            quiet: common.quiet,
            // Threads that wait for their turn to write would compress one after the other. A
            // disk may take several writes at once, but the page cache takes a file's one by one,
            // and who waits there for the other does so busily.
            any_order: self.any_order
                || self.compress
                || (disk.format != Format::Qcow2 && disk.flags().cache.direct),
            threads: self.threads(),
            rate_limit: self.rate_limit,
            target: &disk,
        };
        plan.run(&progress)?;
        if self.bitmaps {
            super::bitmap::copy_all(sources.first(), &disk, self.skip_broken)?;
        }
        disk.close()
            .map_err(|error| Failure::new(disk::words(&error)))?;
        progress.finish();
        Ok(())
    }

    fn open_sources(&self, common: &Common, names: &[String], cache: Cache) -> Outcome<Sources> {
        let flags = Flags {
            cache,
            ..Flags::read()
        };
        let mut disks = Vec::new();
        for name in names {
            disks.push(common.open(name, flags)?);
        }
        if let Some(parameter) = &self.snapshot {
            if disks.len() > 1 {
                fail!("No support for concatenating multiple snapshot");
            }
            for disk in &mut disks {
                super::snapshot::load(disk, parameter)?;
            }
        }
        Ok(Sources::new(disks))
    }

    /// The creation options of the target.
    fn values(&self, format: Format, size: u64) -> Outcome<(Format, Values)> {
        let mut values = Values::new(create_table(format, true));
        if let Some(options) = &self.options {
            values.parse(options)?;
        }
        values.set("size", &size.to_string())?;
        let (backing, backing_format) = (self.backing.as_deref(), self.backing_format.as_deref());
        add_backing(&mut values, format, backing, backing_format)?;
        Ok((format, values))
    }

    fn check_target(
        &self,
        names: &[String],
        values: &Option<(Format, Values)>,
        has_backing: bool,
    ) -> Outcome<()> {
        if self.target_is_zero && has_backing {
            fail!("Cannot use --target-is-zero when the destination image has a backing file");
        }
        if names.len() > 1 && has_backing {
            fail!(
                "Having a backing file for the target makes no sense when concatenating multiple \
                 input images"
            );
        }
        let Some((format, values)) = values else {
            return Ok(());
        };
        if has_backing && values.text("backing_fmt").is_none() {
            fail!("Use of backing file requires explicit backing format");
        }
        if !self.compress {
            return Ok(());
        }
        if *format != Format::Qcow2 {
            fail!("Compression not supported for this file format");
        }
        if values.switch("encryption") == Some(true) || values.text("encrypt.format").is_some() {
            fail!("Compression and encryption not supported at the same time");
        }
        if values
            .text("preallocation")
            .is_some_and(|mode| mode != "off")
        {
            fail!("Compression and preallocation not supported at the same time");
        }
        Ok(())
    }

    fn open_target(
        &self,
        target: &str,
        format: Option<&str>,
        values: &Option<(Format, Values)>,
    ) -> Outcome<Disk> {
        let unsafe_cache = Cache {
            no_flush: true,
            ..Cache::WRITEBACK
        };
        let cache = cache(self.cache.as_deref(), unsafe_cache, "Invalid cache option")?;
        let flags = Flags {
            unmap: self.min_sparse() > 0,
            cache,
            ..Flags::write()
        };
        let Some((_, values)) = values else {
            let disk = open_image(self.target_image_opts, target, format, flags)?;
            if self.compress && disk.format != Format::Qcow2 {
                fail!("Compression not supported for this file format");
            }
            return Ok(disk);
        };
        let mut options = disk::Options::default();
        for (name, value) in values
            .given()
            .iter()
            .filter(|(name, _)| name.ends_with("key-secret"))
        {
            options.set(name, value.clone());
        }
        if let Some(format) = format {
            options.set("driver", format);
        }
        disk::open(Some(target), options, flags)
            .map_err(|failure| failure.context(format_args!("Could not open '{target}': ")))
    }

    fn min_sparse(&self) -> u64 {
        self.sparse.unwrap_or(4096)
    }

    fn threads(&self) -> usize {
        // More threads than cores, of which all copy or compress, only take turns on them.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (self.parallel as usize).min(cores)
    }
}

fn sparse(text: &str) -> Outcome<u64> {
    let value = size::any("buffer size for sparse output", text)?;
    if value % 512 != 0 || value > MAX_SPARSE {
        fail!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up \
             to {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."
        );
    }
    Ok(value)
}

fn parallel(text: &str) -> Outcome<u64> {
    match crate::options::number("m", text) {
        Ok(value @ 1..=MAX_PARALLEL) => Ok(value),
        _ => fail!(
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and \
             {MAX_PARALLEL}"
        ),
    }
}
