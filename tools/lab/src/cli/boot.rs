//! `lab boot`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use strata_lab::{CMDLINE, Cost, Error, Format, Lab, Result};

use super::{mebibytes, progress, strata, upload};

/// Boot a stock guest in level 1 and measure it
///
/// Prints the time from the monitor's exec to the first entry into the guest and to the first
/// line of the guest's init, KVM's counters up to there, and the monitor's memory and threads.
/// With --icount the times do not depend on the host's load: one executed instruction is one
/// nanosecond.
///
/// The program is the workspace's release build of strata, and what follows `--` is added to its
/// arguments. With --vmm it is another program, and what follows `--` are all of its arguments,
/// with these placeholders: {kernel} {bzimage} {vmlinux} {initrd} {cmdline} {cpus} {memory}
/// {memory_mib}. Its shared libraries are brought along.
///
/// Examples:
///   lab boot --icount --runs 3
///   lab boot --icount --json --format elf
///   lab boot --vmm ./lkvm -- run -k {kernel} -i {initrd} -p {cmdline} -m {memory_mib} -c {cpus}
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Boot {
    /// Count instructions as time
    #[arg(long)]
    icount: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Count what the guest leaves for and where, instead of measuring; lists what makes up at
    /// least five exits
    #[arg(long, conflicts_with_all = ["json", "runs"])]
    exits: bool,
    /// Linux 6.1 or 6.12 of the distribution, or a file
    #[arg(long, default_value = "6.1", value_name = "6.1|6.12|PATH")]
    kernel: String,
    /// How the monitor gets the kernel
    #[arg(long, value_enum, default_value_t = Shape::Extracted)]
    format: Shape,
    /// An initramfs whose init prints READY first, instead of the lab's own
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// The kernel command line
    #[arg(long, default_value = CMDLINE, hide_default_value = true)]
    cmdline: String,
    /// The guest's vCPUs
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// The guest's memory: a number with M or G
    #[arg(long, default_value = "256M", value_parser = mebibytes)]
    memory: u32,
    /// Boot this often; the medians are printed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Start the program so many microseconds into a tick of level 1's timer, of 4000 (and at
    /// others where the emulator hangs)
    #[arg(long, value_name = "US", default_value_t = 0)]
    phase: u32,
    /// Give one boot this many seconds
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// The program to measure
    #[arg(long, value_name = "PATH")]
    vmm: Option<PathBuf>,
    /// Bring another file that the program needs: FILE or FILE:DEST, with DEST below /root or absolute
    #[arg(long, value_name = "FILE[:DEST]")]
    with: Vec<String>,
    /// Run this shell script in level 1 first
    #[arg(long, value_name = "SCRIPT", default_value = "")]
    prepare: String,
    /// Arguments of the program
    #[arg(last = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// As it is packaged; what the program may have cached of it is removed before
    Bzimage,
    /// Unpacked, with its PVH entry
    Elf,
    /// As it is packaged, after two boots that let the program cache what it unpacks
    Extracted,
}

/// How `strata` is told what to boot.
const STRATA_ARGS: &str = "run --kernel {kernel} --initrd {initrd} --cmdline {cmdline} \
    --cpus {cpus} --memory {memory} --serial stdio";

impl Boot {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if self.exits {
            for exits in self.request()?.exits(&Lab::open(progress)?)? {
                if exits.count >= 5 {
                    println!("{:>12}  {}", exits.count, exits.what);
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        let costs = self
            .request()?
            .measure(&Lab::open(progress)?, self.runs.into())?;
        let table = summary(&costs);
        if self.json {
            let mut object: Map<String, Value> = table
                .into_iter()
                .map(|(name, _, value)| (name.to_string(), value))
                .collect();
            object.insert("runs".into(), costs.len().into());
            object.insert(
                "clock".into(),
                if self.icount { "icount" } else { "host" }.into(),
            );
            object.insert("kvm".into(), json!(costs[0].counters));
            println!("{}", Value::Object(object));
        } else {
            for (_, words, value) in table {
                println!("{:>12}  {words}", value.to_string());
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn request(&self) -> Result<strata_lab::Boot> {
        let (vmm, mut args) = match &self.vmm {
            Some(path) => (path.clone(), Vec::new()),
            None => {
                let missing =
                    "strata is not built: run `cargo build --release` first, or name a --vmm";
                let path = strata().ok_or_else(|| Error::Usage(missing.into()))?;
                (
                    path,
                    STRATA_ARGS.split_whitespace().map(String::from).collect(),
                )
            }
        };
        args.extend(self.args.iter().cloned());
        Ok(strata_lab::Boot {
            with: self
                .with
                .iter()
                .map(|file| upload(file))
                .collect::<Result<_>>()?,
            prepare: self.prepare.clone(),
            kernel: self.kernel.clone(),
            format: match self.format {
                Shape::Bzimage => Format::BzImage,
                Shape::Elf => Format::Elf,
                Shape::Extracted => Format::Extracted,
            },
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            cpus: self.cpus,
            memory_mib: self.memory,
            icount: self.icount,
            phase_us: self.phase,
            limit: Duration::from_secs(self.timeout),
            ..strata_lab::Boot::new(vmm, args)
        })
    }
}

/// The medians over all runs: key, what it is, value.
fn summary(costs: &[Cost]) -> Vec<(&'static str, &'static str, Value)> {
    let seconds = |pick: fn(&Cost) -> f64| {
        let mut all: Vec<_> = costs.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        // Microseconds are what the trace gives.
        json!((median(&all) * 1e6).round() / 1e6)
    };
    let number = |pick: fn(&Cost) -> i64| {
        let mut all: Vec<_> = costs.iter().map(pick).collect();
        all.sort_unstable();
        json!(median(&all))
    };
    vec![
        (
            "first_entry_s",
            "s from exec to the first guest entry",
            seconds(|c| c.first_entry_s),
        ),
        (
            "marker_s",
            "s from exec to init's first line",
            seconds(|c| c.marker_s),
        ),
        ("exits", "exits up to there", number(|c| c.exits)),
        ("io_exits", "of them for port I/O", number(|c| c.io_exits)),
        ("mmio_exits", "of them for MMIO", number(|c| c.mmio_exits)),
        ("npt_faults", "nested page faults", number(|c| c.npt_faults)),
        (
            "vmm_pss_kb",
            "KiB of memory beside the guest's",
            number(|c| c.vmm_pss_kb as i64),
        ),
        ("threads", "threads", number(|c| c.threads as i64)),
    ]
}

fn median<T: Copy>(sorted: &[T]) -> T {
    sorted[sorted.len() / 2]
}
