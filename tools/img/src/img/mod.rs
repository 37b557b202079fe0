//! The commands of `strata-img`.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod dd;
mod help;
mod info;
mod info_format;
mod map;
mod measure;
mod rebase;
mod resize;
mod snapshot;

use crate::disk::{self, Cache, Disk, Flags, Options, secret};
use crate::getopt::{self, Order, Parsed, Spec};
use crate::report::{Failure, Outcome, program};
use crate::{fail, out};

pub(crate) use info_format::print as print_format_specific;
pub(crate) use resize::mode as preallocation;

type Command = fn(&[String]) -> Outcome<u8>;

const COMMANDS: [(&str, Command); 16] = [
    ("amend", amend::run),
    ("bench", bench::run),
    ("bitmap", bitmap::run),
    ("check", check::run),
    ("commit", commit::run),
    ("compare", compare::run),
    ("convert", convert::run),
    ("create", create::run),
    ("dd", dd::run),
    ("info", info::run),
    ("map", map::run),
    ("measure", measure::run),
    ("rebase", rebase::run),
    ("resize", resize::run),
    ("snapshot", snapshot::run),
    ("help", |_| help::print()),
];

/// Runs the command that `args` (without the program's name) give.
///
/// # Errors
/// Whatever ends the command early.
pub fn main(args: &[String]) -> Outcome<u8> {
    const GLOBAL: &[Spec] = &[
        (Some('h'), "help", false),
        (Some('V'), "version", false),
        (Some('T'), "trace", true),
    ];
    if args.is_empty() {
        return Err(Failure::usage("Not enough arguments"));
    }
    let line = getopt::parse(args, GLOBAL, Order::OptionsFirst)?;
    for (name, _) in &line.options {
        match name.as_str() {
            "help" => return help::print(),
            "version" => {
                out!("{} version {}\n", program(), env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            _ => {}
        }
    }
    let Some((name, rest)) = line.operands.split_first() else {
        return Ok(0);
    };
    match COMMANDS.iter().find(|(command, _)| command == name) {
        Some((_, run)) => run(rest),
        None => Err(Failure::usage(format!("Command not found: {name}"))),
    }
}

/// What most commands take.
#[derive(Debug, Default)]
struct Common {
    format: Option<String>,
    image_opts: bool,
    force_share: bool,
    quiet: bool,
    progress: bool,
    output: Option<String>,
    operands: Vec<String>,
}

/// How a command's result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Human,
    Json,
}

impl Common {
    const HELP: Spec = (Some('h'), "help", false);
    const OBJECT: Spec = (None, "object", true);
    const IMAGE_OPTS: Spec = (None, "image-opts", false);
    const FORCE_SHARE: Spec = (Some('U'), "force-share", false);
    const FORMAT: Spec = (Some('f'), "format", true);
    const QUIET: Spec = (Some('q'), "quiet", false);
    const PROGRESS: Spec = (Some('p'), "progress", false);
    const OUTPUT: Spec = (None, "output", true);

    /// Reads a command line; `own` takes the options that only this command has.
    ///
    /// # Errors
    /// Those of the command line and of `own`. Asking for help ends the command with success.
    fn parse(
        args: &[String],
        specs: &[Spec],
        mut own: impl FnMut(&str, String) -> Outcome<()>,
    ) -> Outcome<Self> {
        let Parsed { options, operands } = getopt::parse(args, specs, Order::Any)?;
        let mut common = Self {
            operands,
            ..Self::default()
        };
        for (name, value) in options {
            match name.as_str() {
                "help" => {
                    help::print()?;
                    return Err(Failure::silent(0));
                }
                "object" => secret::define(&value)?,
                "image-opts" | "source-image-opts" => common.image_opts = true,
                "force-share" => common.force_share = true,
                "format" | "source-format" | "a-format" => common.format = Some(value),
                "quiet" => common.quiet = true,
                "progress" => common.progress = true,
                "output" => common.output = Some(value),
                other => own(other, value)?,
            }
        }
        common.progress &= !common.quiet;
        Ok(common)
    }

    /// The only operand.
    fn one_image(&self) -> Outcome<&str> {
        match self.operands.as_slice() {
            [name] => Ok(name),
            _ => Err(Failure::usage("Expecting one image file name")),
        }
    }

    fn output(&self) -> Outcome<Output> {
        match self.output.as_deref() {
            None | Some("human") => Ok(Output::Human),
            Some("json") => Ok(Output::Json),
            Some(_) => fail!("--output must be used with human or json as argument."),
        }
    }

    /// Opens `name` as the options say.
    fn open(&self, name: &str, flags: Flags) -> Outcome<Disk> {
        let flags = Flags {
            force_share: self.force_share,
            ..flags
        };
        open_image(self.image_opts, name, self.format.as_deref(), flags)
    }
}

/// Opens an image by name or by `--image-opts`.
fn open_image(image_opts: bool, name: &str, format: Option<&str>, flags: Flags) -> Outcome<Disk> {
    let opened = if image_opts {
        if format.is_some() {
            fail!("--image-opts and --format are mutually exclusive");
        }
        disk::open(None, Options::from_keyval(name), flags)
    } else {
        disk::open_name(name, format, flags)
    };
    opened.map_err(|failure| failure.context(format_args!("Could not open '{name}': ")))
}

/// The cache mode of an option.
fn cache(text: Option<&str>, default: Cache, complaint: &str) -> Outcome<Cache> {
    text.map_or(Ok(default), |text| Cache::parse(text, complaint))
}

/// Joins `-o` strings, which may be given more than once.
fn accumulate(options: &mut Option<String>, more: &str) -> Outcome<()> {
    if !crate::text::keyval::joinable(more) {
        fail!("Invalid option list: {more}");
    }
    *options = Some(match options.take() {
        None => more.to_owned(),
        Some(before) => format!("{before},{more}"),
    });
    Ok(())
}

/// The text of a failed request's error number.
fn reason(error: &strata_qcow2::Error) -> String {
    crate::report::errno_text(disk::errno(error))
}
