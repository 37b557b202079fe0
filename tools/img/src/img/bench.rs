//! `bench`: many requests of one size, and how long they take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Common, reason};
use crate::disk::{Cache, Disk, Flags};
use crate::getopt::Spec;
use crate::options::number;
use crate::page::Page;
use crate::report::{Failure, Outcome};
use crate::text::size;
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "bench",
    about: "Measure requests to an image",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Common::QUIET,
        Spec::value(
            Some('c'),
            "count",
            "COUNT",
            "Requests in all [default: 75000]",
        ),
        Spec::value(
            Some('d'),
            "depth",
            "DEPTH",
            "Requests at once [default: 64]",
        ),
        Spec::value(
            None,
            "flush-interval",
            "COUNT",
            "Flush after so many writes [default: 0, never]",
        ),
        Spec::flag(
            Some('n'),
            "native",
            "As qemu-img's: accepted, without effect",
        ),
        Spec::value(
            Some('i'),
            "aio",
            "ENGINE",
            "As qemu-img's: accepted, without effect",
        ),
        Spec::flag(None, "no-drain", "As qemu-img's: accepted, without effect"),
        Spec::value(
            Some('o'),
            "offset",
            "OFFSET",
            "Where the first request goes [default: 0]",
        ),
        Spec::value(None, "pattern", "BYTE", "What writes hold [default: 0]"),
        Spec::value(
            Some('s'),
            "buffer-size",
            "SIZE",
            "Bytes of a request [default: 4096]",
        ),
        Spec::value(
            Some('S'),
            "step-size",
            "SIZE",
            "From one request to the next [default: the bytes of a request]",
        ),
        Spec::value(
            Some('t'),
            "cache",
            "MODE",
            "Cache mode of the image: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::flag(
            Some('w'),
            "write",
            "Write instead of reading: what was in the image is lost",
        ),
    ],
    examples: &[(
        "-c 100000 -d 32 -t none disk.qcow2",
        "read past the host's cache",
    )],
};

/// More threads than this only take turns.
const MAX_THREADS: u64 = 64;

struct Job {
    count: u64,
    depth: u64,
    flush_interval: u64,
    offset: u64,
    pattern: u8,
    size: u64,
    step: u64,
    write: bool,
    cache: Cache,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut job = Job {
        count: 75000,
        depth: 64,
        flush_interval: 0,
        offset: 0,
        pattern: 0,
        size: 4096,
        step: 0,
        write: false,
        cache: Cache::WRITEBACK,
    };
    let common = Common::parse(args, &PAGE, |name, value| job.take(name, &value))?;
    let name = common.one_image()?;
    if !job.write && job.flush_interval > 0 {
        fail!("--flush-interval is only available in write tests");
    }
    if job.flush_interval > 0 && job.flush_interval < job.depth {
        fail!("Flush interval can't be smaller than depth");
    }
    let disk = common.open(
        name,
        Flags {
            write: job.write,
            cache: job.cache,
            ..Flags::default()
        },
    )?;
    if job.step == 0 {
        job.step = job.size;
    }
    let verb = if job.write { "write" } else { "read" };
    out!(
        "Sending {} {verb} requests, {} bytes each, {} in parallel (starting at offset {}, step \
         size {})\n",
        job.count,
        job.size,
        job.depth,
        job.offset,
        job.step
    );
    if job.flush_interval > 0 {
        out!("Sending flush every {} requests\n", job.flush_interval);
    }
    let start = Instant::now();
    job.run(&disk)?;
    out!(
        "Run completed in {:.3} seconds.\n",
        start.elapsed().as_secs_f64()
    );
    disk.close()
        .map_err(|error| Failure::new(crate::disk::words(&error)))?;
    Ok(0)
}

impl Job {
    fn take(&mut self, name: &str, value: &str) -> Outcome<()> {
        let limited = |what: &str, min: u64, max: u64| match number(what, value) {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            Ok(_) => Err(Failure::new(format!(
                "Invalid {what} specified. Must be between {min} and {max}."
            ))),
            Err(_) => Err(Failure::new(format!(
                "Invalid {what} specified: '{value}'."
            ))),
        };
        const INT: u64 = i32::MAX as u64;
        match name {
            "count" => self.count = limited("request count", 1, INT)?,
            "depth" => self.depth = limited("queue depth", 1, INT)?,
            "flush-interval" => self.flush_interval = limited("flush interval", 0, INT)?,
            "pattern" => self.pattern = limited("pattern byte", 0, 255)? as u8,
            "offset" => self.offset = size::any("offset", value)?,
            "buffer-size" => self.size = size::argument("buffer size", value, 1, INT)?,
            "step-size" => self.step = size::argument("step size", value, 0, INT)?,
            "cache" => {
                self.cache = Cache::parse(value, "Invalid cache mode")
                    .map_err(|_| Failure::new("Invalid cache mode"))?;
            }
            "aio" => crate::io::aio(value)?,
            "write" => self.write = true,
            _ => {}
        }
        Ok(())
    }

    fn run(&self, disk: &Disk) -> Outcome<()> {
        let next = AtomicU64::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.depth.min(MAX_THREADS) {
                scope.spawn(|| {
                    if let Err(error) = self.work(disk, &next) {
                        next.store(self.count, Ordering::Relaxed);
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => fail!("Failed request: {}", reason(&error)),
            None => Ok(()),
        }
    }

    /// Where a request goes: they start again at the disk's end, but the first one goes where
    /// it was told to.
    fn offset(&self, number: u64, size: u64) -> u64 {
        let at = self.offset + number * self.step; // Both numbers of the product are below 2^31.
        match number {
            0 => at,
            _ => at.checked_rem(size).unwrap_or(at),
        }
    }

    fn work(&self, disk: &Disk, next: &AtomicU64) -> strata_qcow2::Result<()> {
        let mut buf = vec![self.pattern; self.size as usize];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return Ok(());
            }
            let at = self.offset(number, disk.size());
            if self.write {
                disk.write(&buf, at)?;
            } else {
                disk.read(&mut buf, at)?;
            }
            if self.flush_interval > 0 && (number + 1).is_multiple_of(self.flush_interval) {
                disk.flush()?;
            }
        }
    }
}
