//! `boot`: what it costs `strata`, and other programs beside it, to boot a stock guest.
#![forbid(unsafe_code)]

mod program;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use strata_lab::{Boot, Cost, Format, Lab, SERIES};

use crate::program::{Program, Setup};
use crate::table::Row;

/// How long one boot may take on a host under load.
const LIMIT: Duration = Duration::from_secs(600);

/// Boot stock guests with strata and with other programs, and print what each boot cost
///
/// Every boot runs in the nested lab with one executed instruction as one nanosecond, so that the
/// figures do not depend on the host's load: Debian's kernel, 256 MiB, one CPU, the lab's
/// initramfs and command line. Times run from the program's exec. QEMU, kvmtool (lkvm) and
/// Firecracker are measured where they are on the path or are named by --peer.
#[derive(Parser)]
#[command(name = "boot")]
struct Cli {
    /// The program `strata`; by default the one that was built beside this one
    #[arg(long, value_name = "PATH")]
    strata: Option<PathBuf>,
    /// Another program: qemu, kvmtool or firecracker
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<String>,
    /// Kernels: 6.1, 6.12; by default all
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Boot this often; the medians are printed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print one JSON object per boot too, on standard error, as soon as it has ended
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("boot: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    let mut programs = vec![Program::strata(strata(cli.strata.as_deref())?)];
    programs.extend(program::peers(&cli.peers)?);
    let lab = Lab::open(|text| eprintln!("lab: {text}")).map_err(|error| error.to_string())?;
    for series in kernels(&cli.kernels)? {
        let mut rows = Vec::new();
        for program in &programs {
            for setup in &program.setups {
                let cost = measure(&lab, program, setup, series, cli.runs);
                let row = Row::new(&program.name, setup.name, cost);
                eprintln!(
                    "{}",
                    if cli.json {
                        row.json(series)
                    } else {
                        row.progress(series)
                    }
                );
                rows.push(row);
            }
        }
        println!("{}", table::render(series, &rows));
    }
    Ok(())
}

fn strata(named: Option<&Path>) -> Result<PathBuf, String> {
    match named {
        None => programs::built("strata"),
        Some(path) if path.is_file() => Ok(path.to_owned()),
        Some(path) => Err(format!("{} is not there", path.display())),
    }
}

fn kernels(named: &[String]) -> Result<Vec<&'static str>, String> {
    if named.is_empty() {
        return Ok(SERIES.to_vec());
    }
    let known = |name: &String| SERIES.into_iter().find(|series| series == name);
    let unknown = |name: &String| format!("there is no kernel {name:?}; known are {SERIES:?}");
    named
        .iter()
        .map(|name| known(name).ok_or_else(|| unknown(name)))
        .collect()
}

fn measure(
    lab: &Lab,
    program: &Program,
    setup: &Setup,
    series: &str,
    runs: u16,
) -> Result<Vec<Cost>, String> {
    let boot = Boot {
        with: program.files(series)?,
        kernel: series.to_owned(),
        format: setup.format,
        icount: true,
        limit: LIMIT,
        ..Boot::new(program.path.clone(), setup.args.clone())
    };
    // The first is a warm-up, which `Format::Extracted` has of its own and `Format::BzImage` must
    // not have.
    let warm_up = usize::from(setup.format == Format::Elf);
    let costs = boot.measure(lab, warm_up + usize::from(runs));
    costs
        .map(|costs| costs[warm_up..].to_vec())
        .map_err(|error| error.to_string())
}
