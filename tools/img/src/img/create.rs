//! `create`: a new image.

use super::{Common, accumulate};
use crate::disk::{Creation, Format};
use crate::getopt::Spec;
use crate::options::{Values, amend_table, create_table, print_help};
use crate::page::Page;
use crate::report::{Failure, Outcome};
use crate::text::{keyval, size};
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "create",
    about: "Make a new image",
    operands: "FILENAME [SIZE]",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Spec::value(
            Some('f'),
            "format",
            "FORMAT",
            "Format of the new image [default: raw]",
        ),
        Common::QUIET,
        Spec::value(
            Some('F'),
            "backing-format",
            "FORMAT",
            "Format of the backing file: to be given with -b",
        ),
        Spec::value(
            Some('b'),
            "backing",
            "FILENAME",
            "Read from this image what the new one does not hold; a relative name starts at the new image's directory",
        ),
        Spec::value(
            Some('o'),
            "options",
            "OPTIONS",
            "Options of the format, as NAME=VALUE,..; `-o help` lists them",
        ),
        Spec::flag(
            Some('u'),
            "backing-unsafe",
            "Do not look whether the backing file is there",
        ),
    ],
    examples: &[
        ("-f qcow2 disk.qcow2 10G", "an empty disk"),
        (
            "-f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2",
            "a disk on top of another",
        ),
        ("-f qcow2 -o help", "what else can be chosen"),
    ],
};

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut backing_format, mut backing, mut options) = (None, None, None);
    let mut unsafe_backing = false;
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "backing-format" => backing_format = Some(value),
            "backing" => backing = Some(value),
            "options" => accumulate(&mut options, &value)?,
            _ => unsafe_backing = true,
        }
        Ok(())
    })?;
    let format = common.format.as_deref().unwrap_or("raw");
    let mut operands = common.operands.iter();
    let name = operands.next();
    if options.as_deref().is_some_and(keyval::asks_for_help) {
        return option_help(format, name.is_some());
    }
    let name = name.ok_or_else(|| Failure::usage("Expecting image file name"))?;
    let given_size = operands
        .next()
        .map(|text| size::any("image size", text))
        .transpose()?;
    if let Some(extra) = operands.next() {
        return Err(Failure::usage(format!("Unexpected argument: {extra}")));
    }
    let context = |failure: Failure| failure.context(format_args!("{name}: "));
    let format = Format::require(format).map_err(context)?;
    let mut values = Values::new(create_table(format, true));
    let mut make = || {
        if let Some(options) = &options {
            values.parse(options)?;
        }
        match (values.text("size"), given_size) {
            (Some(_), Some(_)) => fail!("The image size must be specified only once"),
            (None, Some(size)) => values.set("size", &size.to_string())?,
            _ => {}
        }
        add_backing(
            &mut values,
            format,
            backing.as_deref(),
            backing_format.as_deref(),
        )?;
        Creation {
            name,
            format,
            unsafe_backing,
            quiet: common.quiet,
        }
        .run(&mut values)
    };
    make().map_err(context)?;
    Ok(0)
}

/// Adds what `-b` and `-F` (or convert's `-B`) say.
pub(super) fn add_backing(
    values: &mut Values,
    format: Format,
    backing: Option<&str>,
    backing_format: Option<&str>,
) -> Outcome<()> {
    let given = [
        ("backing_file", "Backing file", backing),
        ("backing_fmt", "Backing file format", backing_format),
    ];
    for (name, what, value) in given {
        match value {
            None => {}
            Some(value) if values.knows(name) => values.set(name, value)?,
            Some(_) => fail!("{what} not supported for file format '{}'", format.name()),
        }
    }
    Ok(())
}

/// Makes an image for another command, which says nothing about it.
pub(super) fn create_image(name: &str, format: Format, values: &Values) -> Outcome<()> {
    crate::disk::create(name, format, values)
}

/// Prints what `-o` may say when an image is made.
pub(super) fn option_help(format: &str, with_file: bool) -> Outcome<u8> {
    let format = Format::require(format)?;
    if with_file {
        out!("Supported options:\n");
    } else {
        out!("Supported {} options:\n", format.name());
    }
    print_help(&create_table(format, with_file));
    if !with_file {
        out!(
            "\nThe protocol level may support further options.\n\
             Specify the target filename to include those options.\n"
        );
    }
    Ok(0)
}

/// Prints what `-o` may say when an image is amended.
pub(super) fn amend_help(format: &str) -> Outcome<u8> {
    let format = Format::require(format)?;
    let Some(table) = amend_table(format) else {
        fail!(
            "Format driver '{}' does not support option amendment",
            format.name()
        );
    };
    out!("Amend options for '{}':\n", format.name());
    print_help(&table);
    Ok(0)
}
