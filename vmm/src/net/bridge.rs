//! `strata net bridge`: the command line of `strata_net::bridge`.

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Subcommand};
use strata_net::InterfaceName;
use strata_net::bridge::{self, Change, Host, Report};

use super::table;
use crate::error::Error;

pub(super) const HELP: &str = "\
A bridge with an uplink takes over the NIC's addresses, routes and DNS servers.
If the host's network does not answer within the time limit, or strata dies
half way (Ctrl-C, a lost terminal), everything is put back as it was.

Examples:
  strata net bridge create br0                         for guests among themselves
  strata net bridge create br0 --uplink eth0 --persist   on the NIC's network
  strata run --net bridge=br0 ...
  strata net bridge list
  strata net bridge delete br0";

/// The commands of `strata net bridge`.
#[derive(Debug, Subcommand)]
pub enum BridgeCommand {
    /// Make a bridge, and connect it to a NIC's network
    Create(CreateArgs),
    /// Delete a bridge, and give its NIC back what it had
    Delete(DeleteArgs),
    /// Show bridges, what is connected to them, and which guests
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put back what a change left half done whose process and guard both died
    Recover,
    /// Watch over a change, as a process of its own
    #[command(hide = true)]
    Guard,
}

/// Arguments of `strata net bridge create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The bridge's name, at most 15 characters
    pub name: InterfaceName,
    /// The NIC that connects the bridge to the network
    #[arg(long, value_name = "NIC")]
    pub uplink: Option<InterfaceName>,
    /// Write the distribution's network configuration, so that the bridge is there after a boot
    /// (systemd-networkd, ifupdown)
    #[arg(long)]
    pub persist: bool,
    /// Time limit.
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// Arguments of `strata net bridge delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The bridge
    pub name: InterfaceName,
    /// The port that gets the bridge's addresses, where several may be meant
    #[arg(long, value_name = "NIC")]
    pub uplink: Option<InterfaceName>,
    /// Delete it though guests are connected to it
    #[arg(long)]
    pub force: bool,
    /// Time limit.
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// How long a host may be cut off.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Seconds after which everything is put back if the network does not answer, 1 to 3600
    #[arg(long, value_name = "S", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Runs a command of `strata net bridge`.
///
/// # Errors
/// [`Error::Net`], and [`Error::Host`] when nothing can be printed.
pub fn run(command: BridgeCommand) -> Result<ExitCode, Error> {
    let host = Host::default();
    let mut out = io::stdout().lock();
    let printed = match command {
        BridgeCommand::Create(args) => {
            let change = change(args.name, args.uplink, args.limit.timeout)?;
            print_report(&mut out, &bridge::create(&host, change, args.persist)?)
        }
        BridgeCommand::Delete(args) => {
            let change = change(args.name, args.uplink, args.limit.timeout)?;
            print_report(&mut out, &bridge::delete(&host, change, args.force)?)
        }
        BridgeCommand::List { json } => table::print(&mut out, &bridge::list()?, json),
        BridgeCommand::Recover => print_recovered(&mut out, &bridge::recover(&host)?),
        BridgeCommand::Guard => {
            drop(out);
            let recovered = bridge::guard(&host, io::stdin(), io::stdout())?;
            // Whoever listened on standard output is dead by now.
            print_recovered(&mut io::stderr(), &recovered)
        }
    };
    match printed {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Host {
            what: "write to standard output",
            source,
        }),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn change(
    bridge: InterfaceName,
    uplink: Option<InterfaceName>,
    seconds: u64,
) -> Result<Change, Error> {
    let program = std::env::current_exe().map_err(|source| Error::Host {
        what: "find strata's own program file",
        source,
    })?;
    let mut guard = Command::new(program);
    guard.args(["net", "bridge", "guard"]);
    // In a group of its own, so that a Ctrl-C at the terminal ends the change and not its guard.
    std::os::unix::process::CommandExt::process_group(&mut guard, 0);
    Ok(Change {
        bridge,
        uplink,
        timeout: Duration::from_secs(seconds),
        guard: Some(guard),
    })
}

fn print_report(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for what in &report.moved {
        writeln!(out, "moved {what}")?;
    }
    for file in &report.files {
        writeln!(out, "changed {}", file.display())?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn print_recovered(out: &mut dyn Write, bridges: &[String]) -> io::Result<()> {
    for bridge in bridges {
        writeln!(
            out,
            "strata: what was half done about {bridge} is put back as it was"
        )?;
    }
    Ok(())
}
