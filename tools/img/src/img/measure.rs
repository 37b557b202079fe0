//! `measure`: how large a new image will be.

use std::sync::Arc;

use strata_qcow2::CreateOptions;

use super::{Common, Output, accumulate};
use crate::disk::{Disk, Flags, Format, new_volume_area, qcow2_options, words};
use crate::getopt::Spec;
use crate::options::{Values, create_table};
use crate::page::Page;
use crate::report::{Failure, Outcome};
use crate::text::json::object;
use crate::text::size;
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "measure",
    about: "Tell how large a new image would be",
    operands: "[FILENAME]",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Common::OUTPUT,
        Spec::value(Some('s'), "size", "SIZE", "Of an empty image of this size"),
        Spec::value(
            Some('O'),
            "target-format",
            "FORMAT",
            "The new image's format [default: raw]",
        ),
        Spec::value(
            Some('o'),
            "options",
            "OPTIONS",
            "The new image's options, as NAME=VALUE,..",
        ),
        Spec::value(
            Some('l'),
            "snapshot",
            "SNAPSHOT",
            "Of an internal snapshot of FILENAME",
        ),
    ],
    examples: &[
        ("-O qcow2 --size 1T", "of an empty image"),
        ("-O qcow2 disk.raw", "of a copy"),
    ],
};

/// The result, in bytes.
struct Measure {
    required: u64,
    fully_allocated: u64,
    bitmaps: Option<u64>,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut size, mut format, mut options, mut snapshot) = (None, None, None, None);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "size" => size = Some(size::any("image size", &value)?),
            "target-format" => format = Some(value),
            "options" => accumulate(&mut options, &value)?,
            _ => {
                super::snapshot::check_parameter(&value)?;
                snapshot = Some(value);
            }
        }
        Ok(())
    })?;
    let output = common.output()?;
    let name = match common.operands.as_slice() {
        [] => None,
        [name] => Some(name),
        _ => fail!("At most one filename argument is allowed."),
    };
    match (name, size) {
        (None, _) if common.image_opts || common.format.is_some() || snapshot.is_some() => {
            fail!("--image-opts, -f, and -l require a filename argument.")
        }
        (Some(_), Some(_)) => fail!("--size N cannot be used together with a filename."),
        (None, None) => fail!("Either --size N or one filename must be specified."),
        _ => {}
    }
    let mut source = name
        .map(|name| common.open(name, Flags::read()))
        .transpose()?;
    if let (Some(disk), Some(snapshot)) = (&mut source, &snapshot) {
        super::snapshot::load(disk, snapshot)?;
    }
    let format = Format::require(format.as_deref().unwrap_or("raw"))?;
    let mut values = Values::new(create_table(format, true));
    if let Some(options) = &options {
        values
            .parse(options)
            .inspect_err(|failure| {
                failure.report();
            })
            .map_err(|_| {
                Failure::new(format!(
                    "Invalid options for file format '{}'",
                    format.name()
                ))
            })?;
    }
    if let Some(size) = size {
        values.set("size", &size.to_string())?;
    }
    print(&measure(format, &values, source.as_ref())?, output);
    Ok(0)
}

fn measure(format: Format, values: &Values, source: Option<&Disk>) -> Outcome<Measure> {
    let size = source.map_or_else(|| values.number("size").unwrap_or(0), Disk::size);
    let size = size
        .checked_next_multiple_of(512)
        .ok_or_else(|| Failure::new("The image size is too large"))?;
    let flat = |bytes| Measure {
        required: bytes,
        fully_allocated: bytes,
        bitmaps: None,
    };
    match format {
        Format::Raw => Ok(flat(size)),
        Format::Luks => Ok(flat(size + new_volume_area(values)?)),
        Format::Qcow2 => qcow2(values, size, source),
    }
}

fn qcow2(values: &Values, size: u64, source: Option<&Disk>) -> Outcome<Measure> {
    let mut options = CreateOptions {
        size,
        ..qcow2_options(&that_count(values)?)?
    };
    if values.text("data_file").is_some() {
        let nowhere = Arc::new(strata_qcow2::storage::MemoryStorage::default());
        options.data_file = Some((String::new(), nowhere));
    }
    let geometry = options
        .geometry()
        .map_err(|error| Failure::new(words(&error)))?;
    if size > geometry.max_size() {
        fail!("The image size is too large (try using a larger cluster size)");
    }
    let measured = strata_qcow2::measure(&options, source.map(|disk| &**disk.node()))
        .map_err(|error| Failure::new(words(&error)))?;
    let bitmaps = match source {
        Some(disk) => super::bitmap::measure(disk, &options)?,
        None => None,
    };
    Ok(Measure {
        // What a backing file will hold by then is not known, so nothing can be left to it.
        required: match options.backing {
            Some(_) => measured.fully_allocated,
            None => measured.required,
        },
        fully_allocated: measured.fully_allocated,
        bitmaps,
    })
}

/// Those of the options that the size depends on: others are not looked at, nor is it refused what
/// could not be created.
fn that_count(values: &Values) -> Outcome<Values> {
    let preallocation = values.text("preallocation");
    if let Some(mode) = preallocation
        && super::preallocation(mode).is_err()
    {
        fail!("invalid parameter value: {mode}");
    }
    if let Some(level) = values.text("compat")
        && !["0.10", "v2", "1.1", "v3"].contains(&level)
    {
        fail!("Invalid compatibility level: '{level}'");
    }
    let preallocated = preallocation.is_some_and(|mode| mode != "off");
    Ok(values.only(|name| match name {
        // What of it is to be had from a backing file is decided when there is an image.
        "backing_file" => !preallocated,
        "size" | "cluster_size" | "extended_l2" | "preallocation" | "compat" | "refcount_bits" => {
            true
        }
        // An image without its data is as small as creation makes it.
        "data_file" | "encryption" => true,
        _ => name.starts_with("encrypt."),
    }))
}

fn print(measure: &Measure, output: Output) {
    match output {
        Output::Human => {
            out!("required size: {}\n", measure.required);
            out!("fully allocated size: {}\n", measure.fully_allocated);
            if let Some(bitmaps) = measure.bitmaps {
                out!("bitmaps size: {bitmaps}\n");
            }
        }
        Output::Json => {
            let value = object([
                ("bitmaps", measure.bitmaps.map(Into::into)),
                ("required", Some(measure.required.into())),
                ("fully-allocated", Some(measure.fully_allocated.into())),
            ]);
            out!("{}\n", value.pretty());
        }
    }
}
