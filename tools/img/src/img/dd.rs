//! `dd`: copies blocks from one image into a new one.

use super::{Common, create::create_image, open_image, reason};
use crate::disk::{Flags, Format};
use crate::getopt::Spec;
use crate::options::{Values, create_table};
use crate::page::Page;
use crate::report::{Failure, Outcome, error};
use crate::text::size;
use crate::{disk, fail};

pub(super) const PAGE: Page = Page {
    name: "dd",
    about: "Copy blocks of an image into a new one",
    operands: "[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILENAME of=TARGET",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::FORMAT,
        Spec::value(
            Some('O'),
            "output-format",
            "FORMAT",
            "Format of the new image [default: raw]",
        ),
    ],
    examples: &[(
        "-f raw -O qcow2 bs=1M count=100 if=disk.raw of=head.qcow2",
        "the first 100 MiB",
    )],
};

struct Operands {
    block: u64,
    count: Option<u64>,
    skip: u64,
    input: String,
    output: String,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut output_format = "raw".to_owned();
    let common = Common::parse(args, &PAGE, |_, value| {
        output_format = value;
        Ok(())
    })?;
    let operands = operands(&common.operands)?;
    let source = common.open(&operands.input, Flags::read())?;
    let format =
        Format::from_name(&output_format).ok_or_else(|| Failure::new("Unknown file format"))?;

    let whole = source.size();
    let end = operands
        .count
        .and_then(|count| count.checked_mul(operands.block));
    let end = end.map_or(whole, |end| end.min(whole));
    let start = operands
        .skip
        .checked_mul(operands.block)
        .filter(|start| *start <= end);
    let mut values = Values::new(create_table(format, true));
    values.set("size", &start.map_or(0, |start| end - start).to_string())?;
    create_image(&operands.output, format, &values).map_err(|failure| {
        failure.context(format_args!(
            "{}: error while creating output image: ",
            operands.output
        ))
    })?;
    let target = open_image(
        false,
        &operands.output,
        Some(&output_format),
        Flags::write(),
    )?;
    let Some(start) = start else {
        error(format_args!(
            "{}: cannot skip to specified offset",
            operands.input
        ));
        return Ok(0);
    };
    copy(&source, &target, start, end, operands.block)?;
    target
        .close()
        .map_err(|error| Failure::new(disk::words(&error)))?;
    Ok(0)
}

fn copy(source: &disk::Disk, target: &disk::Disk, start: u64, end: u64, block: u64) -> Outcome<()> {
    let mut buf = vec![0; block.min(end - start) as usize];
    let mut at = start;
    while at < end {
        let part = &mut buf[..block.min(end - at) as usize];
        if let Err(error) = source.read(part, at) {
            fail!(
                "error while reading from input image file: {}",
                reason(&error)
            );
        }
        if let Err(error) = target.write(part, at - start) {
            fail!(
                "error while writing to output image file: {}",
                reason(&error)
            );
        }
        at += part.len() as u64;
    }
    Ok(())
}

fn operands(given: &[String]) -> Outcome<Operands> {
    let (mut block, mut count, mut skip) = (512, None, 0);
    let (mut input, mut output) = (None, None);
    for operand in given {
        match operand.split_once('=') {
            Some(("bs", value)) => block = size::argument("bs", value, 1, i32::MAX as u64)?,
            Some(("count", value)) => count = Some(size::any("count", value)?),
            Some(("skip", value)) => skip = size::any("skip", value)?,
            Some(("if", value)) => input = Some(value.to_owned()),
            Some(("of", value)) => output = Some(value.to_owned()),
            other => {
                fail!(
                    "unrecognized operand {}",
                    other.map_or(operand.as_str(), |(name, _)| name)
                )
            }
        }
    }
    match (input, output) {
        (Some(input), Some(output)) => Ok(Operands {
            block,
            count,
            skip,
            input,
            output,
        }),
        _ => fail!("Must specify both input and output files"),
    }
}
