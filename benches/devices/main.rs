//! `devices`: what one request of a stock driver costs with `strata`, and with QEMU beside it.
#![forbid(unsafe_code)]

mod program;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use programs::built;
use strata_lab::{Boot, CMDLINE, Cost, Format, Lab};

use crate::program::{PREPARE, Setup, setups};
use crate::work::{Needs, WORKS, Work, seconds, write_initramfs};

/// How long one boot may take on a host under load, where it takes twelve seconds of CPU time. The
/// lab gives one up after half of it, for a guest that the emulator has hung, and starts another.
const LIMIT: Duration = Duration::from_secs(240);

/// The guest does its work this often in one boot, and in another; what both have is not counted.
const COUNTS: [u32; 2] = [200, 1200];

/// Count what one request of a guest costs: instructions and exits
///
/// Every guest runs in the nested lab with one executed instruction as one nanosecond, on one CPU
/// that the guest, the monitor and the host's kernel share: so the figures are of all of them, and
/// do not depend on the machine's load. A guest boots twice and does its work 200 and 1,200 times;
/// a thousandth of the difference is printed. QEMU (its microvm, with PCI) is measured where it is
/// on the path.
#[derive(Parser)]
#[command(name = "devices")]
struct Cli {
    /// Only this work: read, write, send or ping
    #[arg(long, value_name = "WORK")]
    only: Option<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("devices: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    let works = chosen(cli.only.as_deref())?;
    let setups = setups(&built("strata")?, &built("strata-img")?)?;
    let lab = Lab::open(|text| eprintln!("lab: {text}")).map_err(|error| error.to_string())?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let initrd = dir.path().join("initrd");
    write_initramfs(&lab, &initrd)?;
    for work in works {
        println!(
            "| {} | instructions | exits | of them to the monitor |",
            work.unit
        );
        println!("|---|---:|---:|---:|");
        for setup in setups.iter().filter(|setup| setup.needs == work.needs) {
            let cell = |value: f64| format!("{value:.2}");
            let cells = match measure(&lab, setup, work, &initrd) {
                Ok(cost) => [
                    format!("{:.0}", cost.instructions),
                    cell(cost.exits),
                    cell(cost.to_monitor),
                ],
                Err(message) => {
                    eprintln!("{}: {message}", setup.name);
                    ["failed"; 3].map(str::to_owned)
                }
            };
            println!("| {} | {} |", setup.name, cells.join(" | "));
        }
        println!();
    }
    Ok(())
}

fn chosen(only: Option<&str>) -> Result<Vec<Work>, String> {
    let Some(only) = only else {
        return Ok(WORKS.to_vec());
    };
    let found = WORKS.into_iter().find(|work| work.key == only);
    let known = WORKS.map(|work| work.key).join(", ");
    Ok(vec![found.ok_or_else(|| {
        format!("there is no work {only:?}; known are {known}")
    })?])
}

/// Of one request.
struct PerRequest {
    instructions: f64,
    exits: f64,
    to_monitor: f64,
}

fn measure(
    lab: &Lab,
    setup: &Setup,
    work: Work,
    initrd: &std::path::Path,
) -> Result<PerRequest, String> {
    let boot = |count: u32| -> Result<Cost, String> {
        let boot = Boot {
            with: setup.files.clone(),
            prepare: match work.needs {
                Needs::Disk => String::new(),
                Needs::Net => PREPARE.to_owned(),
            },
            // How the guest came up is in neither figure: the form that needs no boot before.
            format: Format::Elf,
            initrd: Some(initrd.to_owned()),
            cmdline: format!("{CMDLINE} work={} count={count}", work.key),
            icount: true,
            limit: LIMIT,
            ..Boot::new(setup.program.clone(), setup.args.clone())
        };
        let costs = boot.measure(lab, 1).map_err(|error| error.to_string())?;
        Ok(costs[0].clone())
    };
    let [few, many] = COUNTS;
    let (less, more) = (boot(few)?, boot(many)?);
    let each = |of: fn(&Cost) -> f64| (of(&more) - of(&less)) / f64::from(many - few);
    Ok(PerRequest {
        instructions: each(|cost| seconds(cost) * 1e9),
        exits: each(|cost| cost.exits as f64),
        to_monitor: each(|cost| (cost.io_exits + cost.mmio_exits) as f64),
    })
}
