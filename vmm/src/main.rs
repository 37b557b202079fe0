//! The `strata` program.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use strata::cli::{Cli, Command, DoctorArgs, RunArgs};
use strata::config::PartialConfig;
use strata::error::{Chain, Error};
use strata::net::{NetArgs, NetCommand};
use strata::{doctor, exit, logging, machine, net};

fn main() -> ExitCode {
    let result = match Cli::of_process() {
        Command::Run(args) => run(*args),
        Command::Net(NetArgs {
            command: NetCommand::Bridge(command),
        }) => net::run(command),
        Command::Doctor(args) => diagnose(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "strata", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command } => manual(command),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "strata: {}", Chain(&error));
        ExitCode::from(error.exit_code())
    })
}

fn run(args: RunArgs) -> Result<ExitCode, Error> {
    logging::init(args.log.verbose, args.log.log_file.as_deref())?;
    let file = args
        .config
        .as_deref()
        .map(PartialConfig::from_file)
        .transpose()?;
    let config = args.machine.over(file.unwrap_or_default()).complete()?;
    if args.print_config {
        let json = serde_json::to_string_pretty(&config).map_err(|error| Error::Host {
            what: "print the configuration",
            source: error.into(),
        })?;
        return print(&format!("{json}\n"));
    }
    let outcome = machine::run(&config)?;
    log::info!("{outcome}");
    Ok(outcome.into())
}

fn diagnose(args: &DoctorArgs) -> Result<ExitCode, Error> {
    logging::init(args.log.verbose, args.log.log_file.as_deref())?;
    let able = doctor::report(&doctor::examine(), args.json).map_err(|source| Error::Host {
        what: "print the report",
        source,
    })?;
    Ok(ExitCode::from(if able { 0 } else { exit::BAD_INPUT }))
}

fn manual(command: Option<String>) -> Result<ExitCode, Error> {
    let mut cli = Cli::command();
    cli.build();
    let page = match command {
        None => cli,
        Some(name) => cli
            .find_subcommand(&name)
            .cloned()
            .ok_or(Error::NoSuchCommand(name))?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|source| Error::Host {
            what: "write the manual",
            source,
        })?;
    print(&String::from_utf8_lossy(&text))
}

/// Prints to standard output; a reader that went away (a pager, `head`) is no failure.
fn print(text: &str) -> Result<ExitCode, Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Host {
            what: "write to standard output",
            source,
        }),
        _ => Ok(ExitCode::SUCCESS),
    }
}
