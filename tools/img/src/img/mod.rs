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
use crate::page::Page;
use crate::report::{self, Failure, Outcome, program};
use crate::{fail, out};

pub(crate) use info_format::print as print_format_specific;
pub(crate) use resize::mode as preallocation;

type Run = fn(&[String]) -> Outcome<u8>;

const COMMANDS: [(&Page, Run); 18] = [
    (&amend::PAGE, amend::run),
    (&bench::PAGE, bench::run),
    (&bitmap::PAGE, bitmap::run),
    (&check::PAGE, check::run),
    (&commit::PAGE, commit::run),
    (&compare::PAGE, compare::run),
    (&convert::PAGE, convert::run),
    (&create::PAGE, create::run),
    (&dd::PAGE, dd::run),
    (&info::PAGE, info::run),
    (&map::PAGE, map::run),
    (&measure::PAGE, measure::run),
    (&rebase::PAGE, rebase::run),
    (&resize::PAGE, resize::run),
    (&snapshot::PAGE, snapshot::run),
    (&help::PAGE, help::run),
    (&help::COMPLETIONS, help::completions),
    (&help::MAN, help::man),
];

/// Runs the command that `args` (without the program's name) give.
///
/// # Errors
/// Whatever ends the command early.
pub fn main(args: &[String]) -> Outcome<u8> {
    if args.is_empty() {
        return Err(Failure::usage("Not enough arguments"));
    }
    let line = getopt::parse(args, help::GLOBAL, Order::OptionsFirst)?;
    for (name, _) in &line.options {
        match name.as_str() {
            "help" => {
                help::overview();
                return Ok(0);
            }
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
    match COMMANDS.iter().find(|(page, _)| page.name == name) {
        Some((page, run)) => {
            report::enter(page.name);
            run(rest)
        }
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
    const HELP: Spec = Spec::flag(Some('h'), "help", "Print this help");
    const OBJECT: Spec = Spec::value(
        None,
        "object",
        "OBJECT",
        "Define a secret that options name: secret,id=ID,file=PATH",
    );
    const IMAGE_OPTS: Spec = Spec::flag(
        None,
        "image-opts",
        "FILENAME is a list of options: driver=qcow2,file.filename=PATH,..",
    );
    const FORCE_SHARE: Spec = Spec::flag(
        Some('U'),
        "force-share",
        "Open the image although another process writes to it",
    );
    const FORMAT: Spec = Spec::value(
        Some('f'),
        "format",
        "FORMAT",
        "Format of the image [default: what its first bytes say]",
    );
    const QUIET: Spec = Spec::flag(Some('q'), "quiet", "Print nothing but errors");
    const PROGRESS: Spec = Spec::flag(Some('p'), "progress", "Show how far the work is");
    const OUTPUT: Spec = Spec::value(
        None,
        "output",
        "human|json",
        "Print for people or for programs [default: human]",
    );

    /// Reads a command line; `own` takes the options that only this command has.
    ///
    /// # Errors
    /// Those of the command line and of `own`. Asking for help ends the command with success.
    fn parse(
        args: &[String],
        page: &Page,
        mut own: impl FnMut(&str, String) -> Outcome<()>,
    ) -> Outcome<Self> {
        let Parsed { options, operands } = getopt::parse(args, page.specs, Order::Any)?;
        let mut common = Self {
            operands,
            ..Self::default()
        };
        for (name, value) in options {
            match name.as_str() {
                "help" => {
                    page.print();
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
