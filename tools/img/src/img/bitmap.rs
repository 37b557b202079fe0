//! `bitmap`: persistent dirty bitmaps.

use strata_qcow2::{BitmapInfo, CreateOptions, Error, Image};

use super::{Common, open_image};
use crate::disk::{Disk, Flags, Format, words};
use crate::fail;
use crate::getopt::Spec;
use crate::page::Page;
use crate::report::{Failure, Outcome, error, warn};
use crate::text::json::{Value, object};
use crate::text::size;

pub(super) const PAGE: Page = Page {
    name: "bitmap",
    about: "Add, change, merge and remove persistent dirty bitmaps",
    operands: "FILENAME BITMAP",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORMAT,
        Spec::flag(None, "add", "Add the bitmap"),
        Spec::flag(None, "remove", "Remove it"),
        Spec::flag(None, "clear", "Forget what it holds"),
        Spec::flag(None, "enable", "Let writes be recorded in it"),
        Spec::flag(None, "disable", "Let it stay as it is"),
        Spec::value(None, "merge", "SOURCE", "Add what another bitmap holds"),
        Spec::value(
            Some('g'),
            "granularity",
            "SIZE",
            "Bytes that one bit of an added bitmap stands for [default: a cluster, from 4k to 64k]",
        ),
        Spec::value(
            Some('b'),
            "source-file",
            "FILENAME",
            "The image that has the bitmap to merge [default: this one]",
        ),
        Spec::value(Some('F'), "source-format", "FORMAT", "That image's format"),
    ],
    examples: &[
        ("--add disk.qcow2 monday", "record all writes from now on"),
        (
            "--merge monday disk.qcow2 week",
            "add one bitmap to another",
        ),
    ],
};

/// What a bitmap's granularity is unless the command says otherwise: a cluster, in bounds.
const GRANULARITY: std::ops::RangeInclusive<u64> = 4096..=65536;

/// One thing to do, and the source of a merge.
type Action = (String, String);

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut actions: Vec<Action> = Vec::new();
    let (mut granularity, mut source, mut source_format) = (None, None, None);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "granularity" => granularity = Some(size::any("granularity", &value)?),
            "source-file" => source = Some(value),
            "source-format" => source_format = Some(value),
            action => actions.push((action.to_owned(), value)),
        }
        Ok(())
    })?;
    let granularity = granularity.filter(|granularity| *granularity != 0);
    let has = |wanted: &str| actions.iter().any(|(action, _)| action == wanted);
    if actions.is_empty() {
        fail!("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if granularity.is_some() && !has("add") {
        fail!("granularity only supported with --add");
    }
    if source_format.is_some() && source.is_none() {
        fail!("-F only supported with -b");
    }
    if source.is_some() && !has("merge") {
        fail!("Merge bitmap source file only supported with --merge");
    }
    let [name, bitmap] = common.operands.as_slice() else {
        fail!("Expecting filename and bitmap name");
    };
    let disk = common.open(
        name,
        Flags {
            no_backing: true,
            ..Flags::write()
        },
    )?;
    let source = match source {
        None => None,
        Some(name) => {
            let flags = Flags {
                no_backing: true,
                ..Flags::read()
            };
            Some(open_image(false, &name, source_format.as_deref(), flags)?)
        }
    };
    let done = actions.iter().try_for_each(|(action, from)| {
        perform(&disk, source.as_ref(), bitmap, action, from, granularity).map_err(|why| {
            with_remedy(format!(
                "Operation {action} on bitmap {bitmap} failed: {why}"
            ))
        })
    });
    if let Err(failure) = disk.close() {
        error(format_args!(
            "Error while closing the image: {}",
            super::reason(&failure)
        ));
        return done.and(Err(Failure::silent(1)));
    }
    done.map(|()| 0)
}

fn perform(
    disk: &Disk,
    source: Option<&Disk>,
    bitmap: &str,
    action: &str,
    from: &str,
    granularity: Option<u64>,
) -> Result<(), String> {
    let able = disk
        .image()
        .filter(|image| action == "add" || can_hold(image));
    let Some(image) = able else {
        return Err(match action {
            "add" => format!(
                "Can't store persistent bitmaps to {}: {}",
                disk.name,
                crate::report::errno_text(libc::ENOTSUP)
            ),
            _ => format!("Dirty bitmap '{bitmap}' not found"),
        });
    };
    let done = match action {
        "add" => {
            let cluster = image.geometry().cluster_size();
            let default = cluster.clamp(*GRANULARITY.start(), *GRANULARITY.end());
            let granularity = granularity.unwrap_or(default);
            if !granularity.is_power_of_two() || granularity < 512 {
                return Err("Granularity must be power of 2 and at least 512".to_owned());
            }
            if bitmap.is_empty() {
                return Err("Bitmap name cannot be empty".to_owned());
            }
            return image.add_bitmap(bitmap, granularity).map_err(|error| {
                let why = match &error {
                    Error::Exists { .. } => return bitmap_words(&error),
                    _ if bitmap.len() > 1023 => {
                        "Name length exceeds maximum (1023 characters)".into()
                    }
                    _ => words(&error),
                };
                // QEMU's names a node that it made up for the image.
                format!(
                    "Can't make bitmap '{bitmap}' persistent in '{}': {why}",
                    disk.name
                )
            });
        }
        "remove" => image.remove_bitmap(bitmap),
        "clear" => image.clear_bitmap(bitmap),
        "enable" => image.enable_bitmap(bitmap, true),
        "disable" => image.enable_bitmap(bitmap, false),
        _ => match source.map_or(Some(image), Disk::image) {
            Some(source) => image.merge_bitmap(bitmap, source, from),
            None => Err(Error::NotFound {
                what: "bitmap",
                name: from.to_owned(),
            }),
        },
    };
    done.map_err(|error| bitmap_words(&error))
}

/// Version 2 has no bitmaps.
fn can_hold(image: &Image) -> bool {
    image.header().version >= 3
}

/// Fails if a bitmap can only be removed, as QEMU's does before it changes a disk's size.
pub(super) fn refuse_inconsistent(disk: &Disk) -> Outcome<()> {
    match bitmaps(disk)?
        .into_iter()
        .find(|bitmap| bitmap.inconsistent)
    {
        None => Ok(()),
        Some(BitmapInfo { name, .. }) => Err(with_remedy(format!(
            "Bitmap '{name}' is inconsistent and cannot be used"
        ))),
    }
}

/// A failure that says what QEMU's programs do where a bitmap can only be removed.
fn with_remedy(message: String) -> Failure {
    let inconsistent = message.ends_with("is inconsistent and cannot be used");
    let failure = Failure::new(message);
    match inconsistent {
        true => failure.hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"),
        false => failure,
    }
}

fn bitmap_words(error: &Error) -> String {
    match error {
        Error::NotFound { name, .. } => format!("Dirty bitmap '{name}' not found"),
        Error::Exists { name, .. } => format!("Bitmap already exists: {name}"),
        other => words(other),
    }
}

/// The bitmaps as `info` shows them; None if there are none.
pub(super) fn to_json(image: &Image) -> Option<Value> {
    let bitmaps = image.bitmaps().ok().filter(|bitmaps| !bitmaps.is_empty())?;
    Some(Value::List(bitmaps.iter().map(bitmap_json).collect()))
}

fn bitmap_json(bitmap: &BitmapInfo) -> Value {
    let flags = [("in-use", bitmap.inconsistent), ("auto", bitmap.enabled)];
    let flags = flags
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name.into());
    object([
        ("flags", Some(Value::List(flags.collect()))),
        ("name", Some(bitmap.name.as_str().into())),
        ("granularity", Some(bitmap.granularity.into())),
    ])
}

fn bitmaps(disk: &Disk) -> Outcome<Vec<BitmapInfo>> {
    let bitmaps = disk.image().map_or(Ok(Vec::new()), Image::bitmaps);
    bitmaps.map_err(|error| Failure::new(words(&error)))
}

/// Bytes that the source's bitmaps take in a new image; None where bitmaps cannot be.
pub(super) fn measure(disk: &Disk, options: &CreateOptions) -> Outcome<Option<u64>> {
    const TABLE_ENTRY: u64 = 8;
    const DIRECTORY_ENTRY: u64 = 24;
    if options.version < 3 || !disk.image().is_some_and(can_hold) {
        return Ok(None);
    }
    let cluster = options.cluster_size;
    let (mut total, mut directory) = (0, 0);
    for bitmap in bitmaps(disk)? {
        let bytes = disk.size().div_ceil(bitmap.granularity).div_ceil(8);
        let clusters = bytes.div_ceil(cluster);
        total += clusters * cluster + (clusters * TABLE_ENTRY).next_multiple_of(cluster);
        directory += (DIRECTORY_ENTRY + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(total + u64::next_multiple_of(directory, cluster)))
}

/// Fails unless all bitmaps of the source can be copied.
pub(super) fn check_copy(source: Option<&Disk>, skip_broken: bool) -> Outcome<()> {
    let Some(source) = source.filter(|source| source.format == Format::Qcow2) else {
        fail!("Source lacks bitmap support");
    };
    match bitmaps(source)?.iter().find(|bitmap| bitmap.inconsistent) {
        Some(bitmap) if !skip_broken => Err(Failure::new(format!(
            "Cannot copy inconsistent bitmap '{}'",
            bitmap.name
        ))
        .hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it")),
        _ => Ok(()),
    }
}

/// Copies all bitmaps of the source.
pub(super) fn copy_all(source: Option<&Disk>, target: &Disk, skip_broken: bool) -> Outcome<()> {
    let (Some(source), Some(image)) = (source, target.image()) else {
        return Ok(());
    };
    let Some(from) = source.image() else {
        return Ok(());
    };
    for bitmap in bitmaps(source)? {
        let name = &bitmap.name;
        if bitmap.inconsistent && skip_broken {
            warn(format_args!("Skipping inconsistent bitmap '{name}'"));
            continue;
        }
        let named = |what: &str, error: &Error| {
            Failure::new(format!(
                "Failed to {what} bitmap {name}: {}",
                bitmap_words(error)
            ))
        };
        image
            .add_bitmap(name, bitmap.granularity)
            .map_err(|error| named("create", &error))?;
        let filled = image
            .merge_bitmap(name, from, name)
            .and_then(|()| image.enable_bitmap(name, bitmap.enabled));
        if let Err(error) = filled {
            let _ = image.remove_bitmap(name);
            return Err(named("populate", &error));
        }
    }
    Ok(())
}
