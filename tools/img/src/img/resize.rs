//! `resize`: grows or shrinks an image.

use strata_qcow2::Preallocation;

use super::Common;
use crate::disk::{Flags, words};
use crate::getopt::Spec;
use crate::options::sized;
use crate::page::Page;
use crate::report::{Failure, Outcome, error, warn};
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "resize",
    about: "Grow or shrink an image",
    operands: "FILENAME [+|-]SIZE",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORMAT,
        Common::QUIET,
        Spec::value(
            None,
            "preallocation",
            "MODE",
            "For what is added: off, metadata, falloc or full [default: off]",
        ),
        Spec::flag(None, "shrink", "Allow to lose what lies behind the new end"),
    ],
    examples: &[
        ("disk.qcow2 +5G", "grow by 5 GiB"),
        ("--shrink disk.qcow2 5G", "cut at 5 GiB"),
    ],
};

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    // The size comes last, and a negative one is not an option.
    let Some((text, args)) = args.split_last().filter(|(_, rest)| !rest.is_empty()) else {
        // Which says so, unless it is help that is asked for.
        Common::parse(args, &PAGE, |_, _| Ok(()))?;
        return Err(Failure::usage("Not enough arguments"));
    };
    let (mut preallocation, mut shrink) = (Preallocation::Off, false);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "preallocation" => preallocation = mode(&value)?,
            _ => shrink = true,
        }
        Ok(())
    })?;
    let [name] = common.operands.as_slice() else {
        return Err(Failure::usage("Expecting image file name and size"));
    };
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+') => (1, &text[1..]),
        Some(b'-') => (-1, &text[1..]),
        _ => (0, text.as_str()),
    };
    let given = i128::from(sized("size", digits)?);
    let mut disk = common.open(name, Flags::write())?;
    let current = i128::from(disk.size());
    let total = if sign == 0 {
        given
    } else {
        current + sign * given
    };
    if total <= 0 {
        fail!("New image size must be positive");
    }
    if total <= current && preallocation != Preallocation::Off {
        fail!("Preallocation can only be used for growing images");
    }
    if total < current && !shrink {
        error("Use the --shrink option to perform a shrink operation.");
        warn(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before \
             performing such an operation, make sure there is no important data there.",
        );
        return Err(Failure::silent(1));
    }
    let Ok(total) = u64::try_from(total) else {
        fail!("The new size is too large")
    };
    if disk.format == crate::disk::Format::Qcow2 && total % 512 != 0 {
        fail!("The new size must be a multiple of 512");
    }
    super::bitmap::refuse_inconsistent(&disk)?;
    disk.resize(total, preallocation)
        .map_err(|error| Failure::new(words(&error)))?;
    disk.close().map_err(|error| Failure::new(words(&error)))?;
    if !common.quiet {
        out!("Image resized.\n");
    }
    Ok(0)
}

/// A preallocation mode by name.
pub(crate) fn mode(name: &str) -> Outcome<Preallocation> {
    match name {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        _ => fail!("Invalid preallocation mode '{name}'"),
    }
}
