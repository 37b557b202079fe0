//! `help`, `completions` and `man`: what is told of the commands.

use clap::Command;
use clap_complete::Shell;

use super::{COMMANDS, Common};
use crate::disk::Format;
use crate::getopt::Spec;
use crate::page::{self, Page};
use crate::report::{Failure, Outcome, program};
use crate::{fail, out};

/// What may stand before the command.
pub(super) const GLOBAL: &[Spec] = &[
    Spec::flag(Some('h'), "help", "Print this help"),
    Spec::flag(Some('V'), "version", "Print the version"),
    Spec::value(
        Some('T'),
        "trace",
        "OPTIONS",
        "As qemu-img's: accepted, without effect",
    ),
];

pub(super) const PAGE: Page = Page {
    name: "help",
    about: "Print this help, or that of a command",
    operands: "[COMMAND]",
    specs: &[Common::HELP],
    examples: &[("convert", "how to convert images")],
};

pub(super) const COMPLETIONS: Page = Page {
    name: "completions",
    about: "Print a completion script for a shell",
    operands: "SHELL",
    specs: &[Common::HELP],
    examples: &[("bash", "also: elvish, fish, powershell, zsh")],
};

pub(super) const MAN: Page = Page {
    name: "man",
    about: "Print the manual page, or that of a command",
    operands: "[COMMAND]",
    specs: &[Common::HELP],
    examples: &[("convert | man -l -", "read it")],
};

/// The program with all its commands.
fn whole() -> Command {
    let name = program();
    let formats: String = Format::ALL
        .iter()
        .map(|f| format!(" {}", f.name()))
        .collect();
    Command::new(name)
        .bin_name(name)
        .about("Makes, changes and examines disk images")
        .override_usage(format!("{name} COMMAND [OPTIONS] .."))
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .args(GLOBAL.iter().map(Spec::arg))
        .subcommands(COMMANDS.iter().map(|(page, _)| page.command()))
        .after_help(format!(
            "`{name} COMMAND --help` says more of each.\n\
             Sizes are bytes, or take a suffix: k, M, G, T, P or E (powers of 1024).\n\
             Cache modes: none, writeback, writethrough, directsync, unsafe.\n\n\
             Supported formats:{formats}"
        ))
}

/// Prints the overview.
pub(super) fn overview() {
    page::print(whole());
}

/// The page of the command that the only operand names, if there is one.
fn named(args: &[String], page: &'static Page) -> Outcome<Option<&'static Page>> {
    let common = Common::parse(args, page, |_, _| Ok(()))?;
    let name = match common.operands.as_slice() {
        [] => return Ok(None),
        [name] => name,
        _ => return Err(Failure::usage("Expecting one command")),
    };
    match COMMANDS.iter().find(|(page, _)| page.name == name) {
        Some((page, _)) => Ok(Some(*page)),
        None => fail!("There is no command '{name}'"),
    }
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    match named(args, &PAGE)? {
        Some(page) => page.print(),
        None => overview(),
    }
    Ok(0)
}

pub(super) fn completions(args: &[String]) -> Outcome<u8> {
    let common = Common::parse(args, &COMPLETIONS, |_, _| Ok(()))?;
    let [name] = common.operands.as_slice() else {
        return Err(Failure::usage("Expecting the name of a shell"));
    };
    let Ok(shell) = name.parse::<Shell>() else {
        fail!(
            "There is no completion for '{name}', only for bash, elvish, fish, powershell and zsh"
        )
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole(), program(), &mut script);
    out!("{}", String::from_utf8_lossy(&script));
    Ok(0)
}

pub(super) fn man(args: &[String]) -> Outcome<u8> {
    let command = match named(args, &MAN)? {
        Some(page) => page.command(),
        None => whole(),
    };
    let mut page = Vec::new();
    if let Err(error) = clap_mangen::Man::new(command).render(&mut page) {
        fail!("Could not write the manual: {error}");
    }
    out!("{}", String::from_utf8_lossy(&page));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_whole() {
        // No option twice, no letter twice.
        whole().debug_assert();
        for (page, _) in COMMANDS {
            let text = page.command().render_help().to_string();
            assert!(
                page.specs.iter().all(|spec| !spec.help.is_empty()),
                "{}",
                page.name
            );
            assert!(text.contains("Examples:"), "{text}");
            for (args, _) in page.examples {
                assert!(text.contains(args), "{text}");
            }
        }
    }

    #[test]
    fn the_overview_lists_commands_and_formats() {
        let text = whole().render_help().to_string();
        for (page, _) in COMMANDS {
            assert!(text.contains(page.about), "{text}");
        }
        // Scripts look for this line.
        assert!(text.contains("Supported formats: luks qcow2 raw"), "{text}");
    }
}
