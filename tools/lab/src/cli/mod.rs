//! The command line.

mod boot;
mod exec;
mod shell;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use strata_lab::{Config, Error, Lab, Result, Upload, install_missing};

/// Nested KVM by emulation: QEMU emulates a machine with AMD-V ("level 1") whose Linux has a real
/// KVM, and what is to be tested or measured runs there. No KVM of the host is needed.
///
/// Level 1 is booted once and saved; every use restores it in about a second.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Build(Build),
    Exec(exec::Exec),
    Boot(boot::Boot),
    Shell(shell::Shell),
}

/// Fetch the kernels and prepare everything that the other commands use
///
/// They do it themselves when something is missing or has changed; this one also looks for newer
/// kernels.
#[derive(Args)]
struct Build {
    /// Install missing Debian packages first, as root or by sudo, removing none
    #[arg(long)]
    install: bool,
}

/// The shape of level 1.
#[derive(Args)]
struct Level1 {
    /// Level 1's virtual CPUs (not the guest's: a guest may have more)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    cpus: u8,
    /// Level 1's memory: a number with M or G
    #[arg(long, default_value = "1G", value_parser = mebibytes)]
    memory: u32,
    /// Count instructions as time: one executed instruction is one nanosecond
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,
}

impl Level1 {
    fn config(&self) -> Config {
        Config {
            memory_mib: self.memory,
            cpus: self.cpus,
            icount: self.icount,
        }
    }
}

pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Verb::Build(build) => {
            if build.install {
                install_missing(&Lab::cache().join("apt"), progress)?;
            }
            let lab = Lab::build(progress)?;
            for kernel in lab.kernels() {
                progress(&format!(
                    "ready: Linux {} ({})",
                    kernel.series, kernel.release
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Exec(exec) => exec.run(),
        Verb::Boot(boot) => boot.run(),
        Verb::Shell(shell) => shell.run(),
    }
}

fn progress(text: &str) {
    eprintln!("lab: {text}");
}

/// Reads a size such as 256M or 6G, in MiB.
fn mebibytes(text: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("{text:?} is no size of 64M to 64G, such as 512M or 2G");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let unit = match unit {
        "M" | "m" => 1,
        "G" | "g" => 1024,
        _ => return Err(wrong()),
    };
    let size = number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    size.filter(|size| (64..=64 << 10).contains(size))
        .ok_or_else(wrong)
}

/// A file to bring into level 1: `FILE` or `FILE:DEST`, below /root unless DEST is absolute.
fn upload(text: &str) -> Result<Upload> {
    let (file, dest) = text.split_once(':').unwrap_or((text, ""));
    let failed = |source| Error::File {
        action: "read",
        path: PathBuf::from(file),
        source,
    };
    let contents = std::fs::read(file).map_err(failed)?;
    let mode = std::fs::metadata(file).map_err(failed)?;
    let permissions = std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777;
    Ok(Upload {
        path: destination(file, dest),
        permissions,
        contents,
    })
}

fn destination(file: &str, dest: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let named = match dest {
        "" => name.to_string(),
        dest if dest.ends_with('/') => format!("{dest}{name}"),
        dest => dest.to_string(),
    };
    if named.starts_with('/') {
        named
    } else {
        format!("/root/{named}")
    }
}

/// The `strata` that was built beside this program, if it was.
fn strata() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("strata");
    path.exists().then_some(path)
}

/// What puts `strata` on level 1's path, if it has been built.
fn strata_upload() -> Result<Vec<Upload>> {
    let path = strata().and_then(|path| path.to_str().map(String::from));
    path.map(|path| upload(&format!("{path}:/bin/strata")))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        let _: Cli = Cli::parse_from(["lab", "build"]);
    }

    #[test]
    fn sizes() {
        assert_eq!(mebibytes("256M"), Ok(256));
        assert_eq!(mebibytes("6G"), Ok(6144));
        for wrong in ["", "M", "5", "0G", "-1G", "65G", "99999999999G", "1T"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn destinations() {
        for (file, dest, path) in [
            ("a/b", "", "/root/b"),
            ("b", "c", "/root/c"),
            ("a/b", "/tmp/", "/tmp/b"),
            ("a/b", "x/", "/root/x/b"),
            ("a/b", "/c", "/c"),
        ] {
            assert_eq!(destination(file, dest), path);
        }
    }
}
