//! `open`, `close`, `reopen` and `truncate`.

use super::arguments::{Arguments, Read, Refused, number};
use super::commands::{Shell, usage};
use crate::disk::{self, Cache, Flags, Options};
use crate::out;
use crate::report::{Failure, error};
use crate::text::keyval;

/// Prints a failure of what a command's words mean.
fn refuse<T>(failure: &Failure) -> Read<T> {
    failure.report();
    Err(Refused)
}

pub(super) fn open(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "snCro:ki:t:d:U").or_else(|_| usage("open"))?;
    let mut flags = Flags {
        write: !args.has("r"),
        unmap: true,
        ..Flags::default()
    };
    flags.cache = if args.has("n") {
        Cache::NONE
    } else {
        Cache::WRITETHROUGH
    };
    flags.force_share = args.has("U");
    if let Some(cache) = args.value("t") {
        let parsed = Cache::parse(cache, "Invalid cache option");
        flags.cache = parsed.or_else(|failure| refuse(&failure))?;
    }
    if let Some(mode) = args.value("d") {
        flags.unmap = super::discard(mode).or_else(|failure| refuse(&failure))?;
    }
    if let Some(name) = args.value("i") {
        super::aio(name).or_else(|failure| refuse(&failure))?;
    }
    flags.temporary = args.has("s");
    if args.has("C") {
        return refuse(&Failure::new("copy-on-read is not supported"));
    }
    let mut options = Options::default();
    if let Some(text) = args.value("o") {
        if shell.image_opts {
            out!("--image-opts and 'open -o' are mutually exclusive\n");
            return Err(Refused);
        }
        set_all(&mut options, text);
    }
    let mut operands = args.operands.iter();
    let name = operands.next();
    if operands.next().is_some() {
        return usage("open");
    }
    let name = match name {
        Some(text) if shell.image_opts => {
            set_all(&mut options, text);
            None
        }
        other => other.map(String::as_str),
    };
    shell
        .open(name, options, flags)
        .or_else(|failure| refuse(&failure))
}

fn set_all(options: &mut Options, text: &str) {
    for (name, value) in keyval::parse(text, None) {
        options.set(&name, value);
    }
}

pub(super) fn close(shell: &mut Shell, _: &[String]) -> Read<()> {
    if shell.close() { Ok(()) } else { Err(Refused) }
}

/// Options that may change while a disk is open, or their first parts.
const RUNTIME: [&str; 12] = [
    "read-only",
    "auto-read-only",
    "cache",
    "discard",
    "detect-zeroes",
    "force-share",
    "lazy-refcounts",
    "pass-discard-",
    "overlap-check",
    "l2-cache-",
    "refcount-cache-size",
    "file.",
];

pub(super) fn reopen(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "c:o:rw").or_else(|_| usage("reopen"))?;
    if !args.operands.is_empty() {
        return usage("reopen");
    }
    let open = shell.disk()?;
    let mut flags = open.flags();
    let mut options = open.options.clone();
    let driver = open.protocol().unwrap_or(open.format.name()).to_owned();
    let name = (!open.name.starts_with("json:")).then(|| open.name.clone());
    if args.has("r") && args.has("w") {
        return refuse(&Failure::new("Only one -r/-w option may be given"));
    }
    if args.has("r") || args.has("w") {
        flags.write = args.has("w");
    }
    if let Some(cache) = args.value("c") {
        let parsed = Cache::parse(cache, "Invalid cache option");
        flags.cache = parsed.or_else(|failure| refuse(&failure))?;
    }
    let given = keyval::parse(args.value("o").unwrap_or_default(), None);
    disk::outdate(&mut options, &given);
    for (name, value) in given {
        if name == "read-only" && (args.has("r") || args.has("w")) {
            return refuse(&Failure::new("Cannot set both -r/-w and 'read-only'"));
        }
        let is_cache = matches!(name.as_str(), "cache.direct" | "cache.no-flush");
        if is_cache && args.has("c") {
            return refuse(&Failure::new("Cannot set both -c and the cache options"));
        }
        let last = name.rsplit('.').next().unwrap_or(&name);
        let given = open.options.get(&name);
        let current = match name.as_str() {
            "driver" => Some(driver.as_str()),
            "file.driver" => given.or(Some(open.file_driver)),
            "backing.driver" => given.or(open.layers.get(1).map(|below| below.format.name())),
            _ => given,
        };
        let is_switch = matches!(name.as_str(), "read-only" | "auto-read-only") || is_cache;
        if is_switch && let Err(failure) = crate::options::switch(&name, &value) {
            return refuse(&failure);
        }
        let fixed = matches!(last, "driver" | "node-name");
        if !fixed && !RUNTIME.iter().any(|known| name.starts_with(known)) {
            return refuse(&Failure::new(format!("Cannot change the option '{name}'")));
        }
        if fixed && current != Some(&value) {
            return refuse(&Failure::new(format!("Cannot change the option '{last}'")));
        }
        if !fixed {
            options.set(&name, value);
        }
    }
    let before = (open.flags(), open.options.clone());
    if !shell.close() {
        return Err(Refused);
    }
    let mut open = |flags, mut options: Options| {
        options.set("driver", driver.clone());
        let named = ["file.filename", "filename"];
        let named = named.iter().any(|key| options.get(key).is_some());
        let name = name.as_deref().filter(|_| !named);
        shell.put(disk::open(name, options, flags))
    };
    open(flags, options).or_else(|failure| {
        // The disk stays open as it was; only what it says first is news.
        let _ = open(before.0, before.1);
        refuse(&failure)
    })
}

pub(super) fn truncate(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "m:").or_else(|_| usage("truncate"))?;
    let mode = match args.value("m").map(crate::img::preallocation) {
        None => strata_qcow2::Preallocation::Off,
        Some(mode) => mode.or_else(|failure| refuse(&failure))?,
    };
    let [size] = args.operands.as_slice() else {
        return usage("truncate");
    };
    let size = number(size)?;
    shell.disk_mut()?.resize(size, mode).map_err(|failure| {
        error(disk::words(&failure));
        Refused
    })
}
