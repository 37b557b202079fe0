//! A command's page: the options that its command line takes and what is told of them, from which
//! `--help`, shell completions and manual pages are made.

use clap::{Arg, Command, ValueHint};

use crate::getopt::Spec;
use crate::out;
use crate::report::program;

/// One command; without a name, a program that has none.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: &'static str,
    /// What it does, in one line.
    pub(crate) about: &'static str,
    /// What follows the options.
    pub(crate) operands: &'static str,
    pub(crate) specs: &'static [Spec],
    /// Arguments, and what they are for.
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

impl Page {
    /// The page for the library that formats it. That library never reads a command line here:
    /// QEMU's have rules of their own.
    pub(crate) fn command(&self) -> Command {
        let usage = format!("{} [OPTIONS] {}", self.called(), self.operands);
        let files = Arg::new("").num_args(0..).value_hint(ValueHint::FilePath);
        Command::new(self.name)
            .about(self.about)
            .override_usage(usage)
            .disable_help_flag(true)
            .args(self.specs.iter().map(Spec::arg))
            .arg(files.hide(true))
            .after_help(self.examples())
    }

    /// What starts it: the program, and the command if the page is not the program's own.
    fn called(&self) -> String {
        [program(), self.name].join(" ").trim_end().to_owned()
    }

    fn examples(&self) -> String {
        let width = self.examples.iter().map(|(args, _)| args.len()).max();
        let (width, called) = (width.unwrap_or(0), self.called());
        let lines = self
            .examples
            .iter()
            .map(|(args, purpose)| format!("\n  {called} {args:width$}  {purpose}"));
        format!("Examples:{}", lines.collect::<String>())
    }

    /// Prints the page.
    pub(crate) fn print(&self) {
        print(self.command());
    }
}

/// Prints the help of a command.
pub(crate) fn print(mut command: Command) {
    out!("{}\n", command.render_help().to_string().trim_end());
}

impl Spec {
    /// The option for the library that formats it.
    pub(crate) fn arg(&self) -> Arg {
        let mut arg = Arg::new(self.name).long(self.name).help(self.help);
        if let Some(letter) = self.letter {
            arg = arg.short(letter);
        }
        match self.value {
            Some(value) => arg.value_name(value).value_hint(hint(value)),
            None => arg.num_args(0),
        }
    }
}

fn hint(value: &str) -> ValueHint {
    match value {
        "FILENAME" => ValueHint::FilePath,
        _ => ValueHint::Other,
    }
}
