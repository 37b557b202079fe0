//! The bottom of a disk: a file, or something that stands in for one.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use strata_qcow2::Storage;
use strata_qcow2::storage::{FileOptions, FileStorage};

use super::Format;
use super::blkdebug::{RuledStorage, Rules};
use super::filename::local_path;
use super::flags::Flags;
use super::nested::NodeStorage;
use super::null::NullStorage;
use super::options::Options;
use super::words::io_errno;
use crate::fail;
use crate::report::{Failure, Outcome, errno_text};

/// How blkdebug would cut requests up, which changes no result here.
const LIMITS: [&str; 5] = [
    "align",
    "max-transfer",
    "max-write-zero",
    "opt-discard",
    "max-discard",
];

/// An open file and what it is called.
pub(super) struct Protocol {
    /// The driver's name.
    pub driver: &'static str,
    /// The file's name, or a `json:` text where there is no plain one.
    pub name: String,
    /// Its bytes.
    pub storage: Arc<dyn Storage>,
    /// What shall happen to requests.
    pub rules: Option<Rules>,
}

impl Protocol {
    /// The same with its rules applied to each request to the storage: for what is not at the
    /// top of a disk, where no guest's request is seen.
    pub(super) fn with_rules_within(mut self) -> Self {
        if let Some(rules) = self.rules.take() {
            self.storage = Arc::new(RuledStorage {
                inner: self.storage,
                rules,
            });
        }
        self
    }
}

/// Opens what `options` (without a `file.` prefix) describe.
///
/// # Errors
/// Why the file does not open, and options that are not known.
pub(super) fn open(mut options: Options, flags: &Flags) -> Outcome<Protocol> {
    let driver = options.take("driver");
    for ignored in [
        "node-name",
        "read-only",
        "discard",
        "auto-read-only",
        "detect-zeroes",
    ] {
        options.take(ignored);
    }
    let mut flags = *flags;
    if let Some(direct) = options.take_switch("cache.direct")? {
        flags.cache.direct = direct;
    }
    if let Some(no_flush) = options.take_switch("cache.no-flush")? {
        flags.cache.no_flush = no_flush;
    }
    let mut driver = driver;
    if matches!(driver.as_deref(), None | Some("blkdebug")) && split_filename(&mut options) {
        driver = Some("blkdebug".to_owned());
    }
    match driver.as_deref() {
        Some(format) if is_format(Some(format)) => nested(options, format, &flags),
        Some("null-co" | "null-aio") => null(options, driver.as_deref() == Some("null-co")),
        Some("blkdebug") => blkdebug(options, &flags),
        None => file(options, &flags, None),
        Some(name @ ("file" | "host_device" | "host_cdrom")) => file(options, &flags, Some(name)),
        Some(other) => fail!("{}", super::unknown("driver", other)),
    }
}

fn null(mut options: Options, co: bool) -> Outcome<Protocol> {
    let driver = if co { "null-co" } else { "null-aio" };
    let size = options.take_size("size")?.unwrap_or(1 << 30);
    options.take("read-zeroes");
    options.take("latency-ns");
    options.finish("protocol", driver)?;
    let storage = Arc::new(NullStorage::new(size));
    Ok(Protocol {
        driver,
        name: format!("{driver}://"),
        storage,
        rules: None,
    })
}

/// A format below another one: its guest data is the file.
fn nested(mut options: Options, format: &str, flags: &Flags) -> Outcome<Protocol> {
    options.set("driver", format);
    let disk = super::open::open(None, options, *flags)?;
    let storage = Arc::new(NodeStorage(Arc::clone(disk.node())));
    let name = format!("json:{{\"driver\": \"{format}\"}}");
    Ok(Protocol {
        driver: disk.format.name(),
        name,
        storage,
        rules: None,
    })
}

/// Whether a driver of this name is an image format.
pub(super) fn is_format(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| Format::ALL.iter().any(|known| known.name() == driver))
}

/// Takes `blkdebug:CONFIG:IMAGE` apart; whether the file's name was that.
fn split_filename(options: &mut Options) -> bool {
    let name = options.get("filename").unwrap_or_default();
    let Some(rest) = name.strip_prefix("blkdebug:") else {
        return false;
    };
    let (config, image) = rest.split_once(':').unwrap_or(("", rest));
    let (config, image) = (config.to_owned(), image.to_owned());
    options.take("filename");
    options.set("config", config);
    options.set("x-image", image);
    true
}

/// The rules of a `blkdebug` driver, and the options of what is below it.
///
/// # Errors
/// For options and rules that are not known.
pub(super) fn debugged_image(mut options: Options) -> Outcome<(Rules, Options)> {
    split_filename(&mut options);
    let config = options.take("config").filter(|path| !path.is_empty());
    let mut rules = Rules::take(&mut options, config.as_deref())?;
    if let Some(unit) = options.take_size("opt-write-zero")? {
        rules.zero_unit = unit.max(1);
    }
    for limit in LIMITS {
        options.take_size(limit)?;
    }
    let mut image = options.take_below("image");
    if let Some(name) = options.take("x-image") {
        image.set("filename", name);
    }
    options.finish("protocol", "blkdebug")?;
    Ok((rules, image))
}

fn blkdebug(options: Options, flags: &Flags) -> Outcome<Protocol> {
    let (rules, image) = debugged_image(options)?;
    let below = open(image, flags)?;
    let name = format!("blkdebug::{}", below.name);
    Ok(Protocol {
        driver: "blkdebug",
        name,
        storage: below.storage,
        rules: Some(rules),
    })
}

/// A file or device of the host; `asked` is the driver's name, if one was given.
fn file(mut options: Options, flags: &Flags, asked: Option<&str>) -> Outcome<Protocol> {
    let Some(name) = options.take("filename") else {
        fail!("The 'file' block driver requires a file name");
    };
    let Some(locking) = Locking::parse(options.take("locking").as_deref()) else {
        fail!("Parameter 'locking' does not accept that value");
    };
    for ignored in [
        "aio",
        "pr-manager",
        "aio-max-batch",
        "drop-cache",
        "x-check-cache-dropped",
    ] {
        options.take(ignored);
    }
    options.finish("protocol", "file")?;
    let path = local_path(&name)?;
    let complain = |error: &io::Error| {
        Failure::new(format!(
            "Could not open '{path}': {}",
            errno_text(io_errno(error))
        ))
    };
    if let Ok(meta) = std::fs::metadata(path) {
        check_kind(path, meta.file_type(), asked, flags.write)?;
    }
    let open = FileOptions {
        write: flags.write,
        create: false,
        direct: flags.cache.direct,
    };
    let file = match open_file(path, open) {
        Ok(file) => file,
        Err(error) if flags.cache.direct && io_errno(&error) == libc::EINVAL => {
            fail!("Could not open '{path}': The filesystem does not support O_DIRECT");
        }
        Err(error) => return Err(complain(&error)),
    };
    let file = if flags.cache.no_flush {
        file.without_flush()
    } else {
        file
    };
    let kind = file.file().metadata().map_err(|error| complain(&error))?;
    let device = is_device(kind.file_type());
    if locking == Locking::On && !device {
        crate::sys::lock(file.file(), flags.write, flags.force_share)
            .map_err(|mode| lock_failure(&mode))?;
    }
    let driver = if device { "host_device" } else { "file" };
    Ok(Protocol {
        driver,
        name: path.to_owned(),
        storage: Arc::new(file),
        rules: None,
    })
}

/// Opens a file or a device of any kind.
pub(super) fn open_file(path: &str, options: FileOptions) -> std::io::Result<FileStorage> {
    match std::fs::metadata(path) {
        // Such as /dev/null: a device of no size, which guests' disks are not opened on.
        Ok(meta) if meta.file_type().is_char_device() => std::fs::OpenOptions::new()
            .read(true)
            .write(options.write)
            .open(path)
            .and_then(FileStorage::from_file),
        _ => FileStorage::open(Path::new(path), options),
    }
}

fn is_device(kind: FileType) -> bool {
    kind.is_block_device() || kind.is_char_device()
}

/// Whether a file is of the kind that the driver asked for is for; without one, a regular file or
/// a device.
fn check_kind(path: &str, kind: FileType, asked: Option<&str>, write: bool) -> Outcome<()> {
    if kind.is_dir() && write {
        fail!("Could not open '{path}': {}", errno_text(libc::EISDIR));
    }
    match asked {
        None | Some("file") if kind.is_file() => Ok(()),
        None if is_device(kind) => Ok(()),
        None | Some("file") => fail!("'file' driver requires '{path}' to be a regular file"),
        Some(_) if is_device(kind) => Ok(()),
        Some(driver) => {
            fail!("'{driver}' driver requires '{path}' to be either a character or block device")
        }
    }
}

fn lock_failure(mode: &str) -> Failure {
    Failure::new(format!("Failed to get {mode} lock")).hint("Is another process using the image?")
}

#[derive(PartialEq, Eq)]
enum Locking {
    On,
    Off,
}

impl Locking {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("on" | "auto") => Some(Locking::On),
            Some("off") => Some(Locking::Off),
            Some(_) => None,
        }
    }
}
