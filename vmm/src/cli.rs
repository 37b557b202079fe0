//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::config::PartialConfig;
use crate::net::NetArgs;

/// Boots Linux guests on KVM, quickly and in little memory.
#[derive(Debug, Parser)]
#[command(
    name = "strata",
    version,
    about = "Runs Linux guests on KVM",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  strata doctor                             what this host can do
  strata run --kernel /boot/vmlinuz --initrd /boot/initrd.img
  strata run --config vm.toml --memory 2G   a file's machine, with more memory

`strata COMMAND --help` says more of each.";

const RUN_HELP: &str = "\
Console:
  On a terminal the guest's serial console is yours, every key of it:
  Ctrl-A X ends the machine, Ctrl-A H lists what else Ctrl-A does.

Signals:
  SIGTERM or SIGINT presses the guest's power button; a second one ends the
  machine at once, as SIGHUP does.

Exit code:
  0    the guest powered off, or you left by Ctrl-A X
  1    strata failed
  2    the command line, a file or this host does not allow it
  3    the guest asked for a reboot
  4    the guest's kernel panicked or crashed
  143  ended by a signal

Examples:
  strata run --kernel vmlinuz --initrd initrd.img --memory 1G --cpus 2
  strata run --kernel vmlinux --cmdline 'console=ttyS0 quiet' --serial file=log
  strata run --config vm.toml

  vm.toml:
    kernel = \"vmlinuz\"        # relative to vm.toml
    initrd = \"initrd.img\"
    cpus = 2
    memory = \"1G,hugepages=2M\"";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a machine and stay with it until it ends
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Set up the host's side of guests' networks
    Net(NetArgs),
    /// Show what this host offers for running guests, and prove it with a tiny one
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  strata completions bash > \
        ~/.local/share/bash-completion/completions/strata")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of strata, or of one of its commands
    Man {
        /// The command
        command: Option<String>,
    },
}

/// `strata run` alone: what starts machines builds no other command's options, which would cost each
/// start a tenth of a millisecond.
#[derive(Debug, Parser)]
#[command(name = "strata run", bin_name = "strata run", version, after_help = RUN_HELP)]
#[command(about = "Start a machine and stay with it until it ends")]
pub struct RunCli {
    /// Its arguments.
    #[command(flatten)]
    pub args: RunArgs,
}

impl Cli {
    /// The command of this process's arguments. Where they are wrong, or ask for help, it says so
    /// and ends the process.
    pub fn of_process() -> Command {
        let mut args = std::env::args_os();
        if args.nth(1).is_some_and(|command| command == "run") {
            let run = RunCli::parse_from(std::iter::once("strata run".into()).chain(args));
            return Command::Run(Box::new(run.args));
        }
        Self::parse().command
    }
}

/// Arguments of `strata run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Read the machine from a .json or .toml file; options on the command line win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: PartialConfig,
    /// Print the whole effective configuration as JSON, and do not start
    #[arg(long)]
    pub print_config: bool,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Arguments of `strata doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Messages.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How much is said, and where.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Say more on standard error; repeat for still more (-vvv)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Write all messages to a file too, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        RunCli::command().debug_assert();
    }
}
