//! From a name and options to an open disk with its backing chain.

use std::path::Path;
use std::sync::Arc;

use strata_qcow2::storage::EncryptedStorage;
use strata_qcow2::{Backing, Header, Image, Node, OpenOptions, RawDisk, Storage};

use super::data::{Disk, Layer};
use super::filename::{full_backing_name, has_protocol};
use super::luks::Key;
use super::nested::temporary_overlay;
use super::options::Options;
use super::probe::{PROBED, Probed, probe};
use super::protocol::{self, Protocol};
use super::{Flags, Format, secret, words};
use crate::fail;
use crate::report::{Failure, Outcome, note};

/// More layers than any use has; a chain is opened by recursion.
const MAX_DEPTH: usize = 200;

/// Opens the disk called `name`, in `format` if that is given.
///
/// # Errors
/// In qemu's words, without the name in front.
pub fn open_name(name: &str, format: Option<&str>, flags: Flags) -> Outcome<Disk> {
    let mut options = Options::default();
    if let Some(format) = format {
        options.set("driver", format);
    }
    open(Some(name), options, flags)
}

/// Opens the disk that `name` and `options` describe.
///
/// # Errors
/// As [`open_name`].
pub fn open(name: Option<&str>, options: Options, flags: Flags) -> Outcome<Disk> {
    if !flags.temporary {
        return open_chain(name, options, flags, &mut Vec::new());
    }
    let below = Flags {
        write: false,
        ..flags
    };
    let mut disk = open_chain(name, options, below, &mut Vec::new())?;
    disk.node = Arc::new(Node::Qcow2(temporary_overlay(&disk.node)?));
    (disk.format, disk.flags) = (
        Format::Qcow2,
        Flags {
            write: true,
            ..flags
        },
    );
    Ok(disk)
}

fn open_chain(
    name: Option<&str>,
    mut options: Options,
    flags: Flags,
    above: &mut Vec<(u64, u64)>,
) -> Outcome<Disk> {
    if above.len() >= MAX_DEPTH {
        fail!("The backing chain is longer than {MAX_DEPTH} images");
    }
    let depth = above.len();
    let plain = match name.map(|name| (name, name.strip_prefix("json:"))) {
        Some((_, Some(json))) => {
            let given = Options::from_json(json)?;
            options.extend(given);
            None
        }
        Some((name, None)) => Some(name.to_owned()),
        None => None,
    };
    let original = options.clone();
    let mut flags = flags;
    take_flags(&mut options, &mut flags)?;
    match options.get("driver") {
        Some("compress") => return compressing(options, flags, above),
        Some("blkdebug") if protocol::is_format(options.get("image.driver")) => {
            return debugged(options, plain.as_deref(), flags, above);
        }
        _ => {}
    }
    let driver = options.take("driver");
    let top_protocol = matches!(
        driver.as_deref(),
        Some("file" | "host_device" | "host_cdrom" | "null-co" | "null-aio" | "blkdebug")
    );
    let file = if top_protocol {
        let mut below = std::mem::take(&mut options);
        below.set("driver", driver.clone().unwrap_or_default());
        if let Some(plain) = &plain {
            below.set("filename", plain.clone());
        }
        protocol::open(below, &flags)?
    } else {
        open_file(&mut options, plain.as_deref(), &flags)?
    };
    let file = match depth {
        0 => file,
        _ => file.with_rules_within(),
    };
    remember(&file, above)?;
    let (format, guessed_raw) = match driver.as_deref() {
        _ if top_protocol => (Format::Raw, false),
        Some(name) => match Format::from_name(name) {
            Some(format) => (format, false),
            None => fail!("{}", super::unknown("driver", name)),
        },
        None => guess(&file, flags.write && above.len() == 1)?,
    };
    let name = match &plain {
        Some(name) => plain_name(name),
        None => shown_name(&original, format, &file),
    };
    let opened = match format {
        Format::Raw => raw(options, &file),
        Format::Luks => luks(options, &file, &flags),
        Format::Qcow2 => {
            // Relative names start where the file lies, however it was named.
            let place = if name.starts_with("json:") {
                &file.name
            } else {
                &name
            };
            qcow2(options, &file, place, &flags, above)
        }
    }?;
    let mut layers = vec![Layer {
        name: name.clone(),
        format,
    }];
    layers.extend(opened.below);
    Ok(Disk {
        node: Arc::new(opened.node),
        format,
        name,
        file_name: file.name,
        file_driver: file.driver,
        file: file.storage,
        data_file_name: opened.data_file_name,
        layers,
        options: original,
        flags,
        rules: file.rules,
        image_options: opened.image_options,
        compress: false,
        guessed_raw,
    })
}

/// The driver `blkdebug` on top of a format: a disk whose requests meet its rules.
fn debugged(
    mut options: Options,
    plain: Option<&str>,
    flags: Flags,
    above: &mut Vec<(u64, u64)>,
) -> Outcome<Disk> {
    options.take("driver");
    if let Some(plain) = plain {
        options.set("filename", plain);
    }
    let (rules, image) = protocol::debugged_image(options)?;
    let disk = open_chain(None, image, flags, above)?;
    Ok(Disk {
        rules: Some(rules),
        ..disk
    })
}

/// The driver `compress`: a disk, whatever it is, whose writes are compressed.
fn compressing(mut options: Options, flags: Flags, above: &mut Vec<(u64, u64)>) -> Outcome<Disk> {
    let below = options.take_below("file");
    options.take("driver");
    options.finish("format", "compress")?;
    let disk = open_chain(None, below, flags, above)?;
    if disk.format != Format::Qcow2 {
        fail!("Compression is not supported for this file format");
    }
    Ok(Disk {
        compress: true,
        ..disk
    })
}

/// What a format makes of a file.
struct Opened {
    node: Node,
    below: Vec<Layer>,
    data_file_name: Option<String>,
    image_options: Option<OpenOptions>,
}

impl Opened {
    fn raw(storage: Arc<dyn Storage>) -> Outcome<Self> {
        let disk = RawDisk::new(storage).map_err(|error| Failure::new(words(&error)))?;
        Ok(Self {
            node: Node::Raw(disk),
            below: Vec::new(),
            data_file_name: None,
            image_options: None,
        })
    }
}

/// The options that every format has.
fn take_flags(options: &mut Options, flags: &mut Flags) -> Outcome<()> {
    if let Some(direct) = options.take_switch("cache.direct")? {
        flags.cache.direct = direct;
    }
    if let Some(no_flush) = options.take_switch("cache.no-flush")? {
        flags.cache.no_flush = no_flush;
    }
    if let Some(writeback) = options.take_switch("cache.writeback")? {
        flags.cache.writethrough = !writeback;
    }
    if options.take_switch("read-only")? == Some(true) {
        flags.write = false;
    }
    if options.take_switch("force-share")? == Some(true) {
        if flags.write {
            fail!("force-share=on can only be used with read-only images");
        }
        flags.force_share = true;
    }
    match options.take("discard").as_deref() {
        None => {}
        Some("unmap" | "on") => flags.unmap = true,
        Some("ignore" | "off") => flags.unmap = false,
        Some(_) => fail!("Invalid discard option"),
    }
    for ignored in ["node-name", "auto-read-only", "detect-zeroes"] {
        options.take(ignored);
    }
    Ok(())
}

/// Opens the file below a format: `file.*`, `filename`, or the name itself.
fn open_file(options: &mut Options, plain: Option<&str>, flags: &Flags) -> Outcome<Protocol> {
    let mut below = options.take_below("file");
    let name = options.take("filename").or_else(|| options.take("file"));
    match (plain, name) {
        (Some(plain), _) => below.set("filename", plain),
        (None, Some(name)) => below.set("filename", name),
        (None, None) if below.is_empty() => {
            fail!("A block device must be specified for \"file\"")
        }
        (None, None) => {}
    }
    protocol::open(below, flags)
}

/// Two layers of one chain in the same file would never end.
fn remember(file: &Protocol, above: &mut Vec<(u64, u64)>) -> Outcome<()> {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(&file.name) else {
        return Ok(());
    };
    let id = (meta.dev(), meta.ino());
    if above.contains(&id) {
        fail!("Backing file '{}' creates an infinite loop.", file.name);
    }
    above.push(id);
    Ok(())
}

fn guess(file: &Protocol, write: bool) -> Outcome<(Format, bool)> {
    let mut start = vec![0; PROBED];
    file.storage.read_at(&mut start, 0).map_err(|error| {
        Failure::new(format!(
            "Could not read image for determining its format: {}",
            words(&error)
        ))
    })?;
    match probe(&start) {
        Probed::Foreign(name) => fail!("{}", super::unknown("driver", name)),
        Probed::Known(Format::Raw) if write => {
            note(format_args!(
                "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
                 Automatically detecting the format is dangerous for raw images, \
                 write operations on block 0 will be restricted.\n         \
                 Specify the 'raw' format explicitly to remove the restrictions.",
                file.name
            ));
            Ok((Format::Raw, true))
        }
        Probed::Known(format) => Ok((format, false)),
    }
}

/// The name without `file:`, in a way that no other protocol is seen in it.
fn plain_name(name: &str) -> String {
    match name.strip_prefix("file:") {
        Some(path) if has_protocol(path) => format!("./{path}"),
        Some(path) => path.to_owned(),
        None => name.to_owned(),
    }
}

/// A plain file name where that opens the same, else the options as JSON.
fn shown_name(options: &Options, format: Format, file: &Protocol) -> String {
    let plain = matches!(file.driver, "file" | "host_device")
        && options.names().all(|name| {
            let known = ["driver", "file", "filename", "file.driver", "file.filename"];
            known.contains(&name)
        });
    if plain {
        return file.name.clone();
    }
    let mut options = options.clone();
    options.set_default("driver", format.name());
    format!("json:{}", options.to_json().compact())
}

fn raw(mut options: Options, file: &Protocol) -> Outcome<Opened> {
    let offset = options.take_size("offset")?;
    let size = options.take_size("size")?;
    options.finish("format", "raw")?;
    if offset.unwrap_or(0) != 0 || size.is_some() {
        fail!("The raw format's 'offset' and 'size' are not supported");
    }
    Opened::raw(Arc::clone(&file.storage))
}

fn luks(mut options: Options, file: &Protocol, flags: &Flags) -> Outcome<Opened> {
    let key = options.take("key-secret");
    options.take_below("header");
    options.finish("format", "luks")?;
    match key {
        // Metadata needs no key, and none needs to be there.
        Some(id) if !flags.no_io => {
            let key = Key(secret::passphrase(&id)?);
            let storage = EncryptedStorage::open(Arc::clone(&file.storage), &key)
                .map_err(|error| Failure::new(words(&error)))?;
            Opened::raw(Arc::new(storage))
        }
        _ if flags.no_io => {
            let storage = super::luks::locked(&file.storage)?;
            Opened::raw(storage)
        }
        _ => fail!("Parameter 'key-secret' is required for cipher"),
    }
}

fn qcow2(
    mut options: Options,
    file: &Protocol,
    name: &str,
    flags: &Flags,
    above: &mut Vec<(u64, u64)>,
) -> Outcome<Opened> {
    let refused = |error: strata_qcow2::Error| Failure::new(words(&error));
    let header = Header::read(&*file.storage).map_err(refused)?;
    let mut open = super::qcow2::take_options(&mut options, header.geometry.cluster_size())?;
    open.writable = flags.write;
    open.allow_corrupt = flags.check;
    open.keep_dirty = flags.check;
    open.metadata_only = flags.no_io;
    open.on_finding = Some(Arc::new(|finding| note(&finding.text)));
    if let (Some(id), false) = (options.take("encrypt.key-secret"), flags.no_io) {
        open.unlock = Some(Arc::new(Key(secret::passphrase(&id)?)));
    }
    options.take("encrypt.format");
    let data_file_name = data_file(&mut options, &mut open, &header, name, flags)?;
    let below = backing(&mut options, &mut open, &header, name, flags, above)?;
    options.finish("format", "qcow2")?;
    let image = Image::open(Arc::clone(&file.storage), open.clone()).map_err(refused)?;
    if !flags.check {
        // What nothing but a check can use is told of before anything is done.
        image.snapshots().map_err(refused)?;
        image.bitmap_names().map_err(refused)?;
    }
    Ok(Opened {
        node: Node::Qcow2(image),
        below,
        data_file_name,
        image_options: Some(open),
    })
}

/// Opens the external data file that the image names, or the one that the options do.
fn data_file(
    options: &mut Options,
    open: &mut OpenOptions,
    header: &Header,
    name: &str,
    flags: &Flags,
) -> Outcome<Option<String>> {
    let mut given = options.take_below("data-file");
    if let Some(path) = options.take("data-file") {
        given.set("filename", path);
    }
    if given.is_empty() {
        let Some(stored) = header
            .data_file_name()
            .filter(|_| header.geometry.data_file)
        else {
            return Ok(None);
        };
        if flags.no_io {
            // Its metadata is wanted: whatever file the image names stays closed.
            open.data_file = Some(Arc::new(super::null::NullStorage::new(0)));
            return Ok(Some(stored));
        }
        // QEMU's knows the current directory alone, where such files are made, too.
        let path = match Path::new(&stored).exists() {
            true => stored,
            false => full_backing_name(name, &stored)?,
        };
        given.set("filename", path);
    }
    if given.get("driver") == Some("raw") {
        let below = given.take_below("file");
        given = below;
    }
    let file = protocol::open(given, flags)?.with_rules_within();
    open.data_file = Some(file.storage);
    Ok(Some(file.name))
}

fn backing(
    options: &mut Options,
    open: &mut OpenOptions,
    header: &Header,
    name: &str,
    flags: &Flags,
    above: &mut Vec<(u64, u64)>,
) -> Outcome<Vec<Layer>> {
    let mut given = options.take_below("backing");
    let named = options.take("backing");
    if flags.no_backing || named.as_deref() == Some("") {
        open.backing = if flags.no_io {
            Backing::Closed
        } else {
            Backing::Ignored
        };
        return Ok(Vec::new());
    }
    let wrap = |failure: Failure| failure.context("Could not open backing file: ");
    let stored = header
        .backing_file
        .as_deref()
        .filter(|stored| !stored.is_empty());
    let described = given.names().any(|name| {
        !matches!(
            name,
            "driver" | "node-name" | "read-only" | "auto-read-only"
        )
    });
    let full = match (stored, described) {
        (_, true) => None,
        (None, false) => return Ok(Vec::new()),
        (Some(stored), false) => Some(full_backing_name(name, stored).map_err(wrap)?),
    };
    if let (Some(format), Some(_)) = (header.backing_format(), &full) {
        given.set_default("driver", format);
    }
    let commit_to = flags.commit_to.and_then(|levels| levels.checked_sub(1));
    let write = commit_to == Some(0);
    let flags = Flags {
        write,
        commit_to,
        check: false,
        ..*flags
    };
    let below = open_chain(full.as_deref(), given, flags, above).map_err(wrap)?;
    open.backing = Backing::Node(Arc::clone(&below.node));
    Ok(below.layers)
}
