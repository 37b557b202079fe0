//! The command line.

use std::path::PathBuf;

use clap::Parser;
use strata_mkimage::{
    Cache, Error, Format, Freshness, Request, Result, Runner, Suite, Variant, install_missing,
};

/// Makes a bootable Debian disk image from the distribution's packages.
///
/// Writes the disk to OUTPUT, and its kernel and initramfs beside it: OUTPUT with the extensions
/// .kernel and .initrd. Without OUTPUT it prints where the cache keeps them, read-only.
///
/// The first build of an image fetches packages and takes some minutes (`test`: half a minute);
/// later ones copy it from the cache, $XDG_CACHE_HOME/strata-mkimage, until --update finds that
/// the distribution has changed. No loop device and no right to mount is needed. Users other than
/// root need the packages uidmap and fakeroot.
#[derive(Parser)]
#[command(name = "mkimage", version, after_help = EXAMPLES)]
struct Cli {
    /// Where to write the disk
    output: Option<PathBuf>,
    /// What kind of machine
    #[arg(long, value_enum, default_value_t = Variant::Standard)]
    variant: Variant,
    /// The release of Debian
    #[arg(long, value_enum, default_value_t = Suite::Bookworm)]
    suite: Suite,
    /// The disk's format [default: qcow2 if OUTPUT ends so, else raw]
    #[arg(long, value_enum, requires = "output")]
    format: Option<Format>,
    /// More packages, separated by commas
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,
    /// The disk's size, such as 512M or 20G [default: 2G, test: 256M]
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// An archive to use alone, instead of Debian's with updates and security updates
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Look for newer packages, and build anew if there are any
    #[arg(long)]
    update: bool,
    /// Replace OUTPUT and the files beside it
    #[arg(long, requires = "output")]
    force: bool,
    /// Install the Debian packages that this program needs, as root or by sudo
    #[arg(long)]
    install: bool,
    /// Show all that the programs say
    #[arg(long, short)]
    verbose: bool,
}

const EXAMPLES: &str = "\
Examples:
  mkimage debian.raw                  a machine with systemd; root logs in without a password,
                                      on the console only
  mkimage --include openssh-server,cloud-init debian.qcow2
                                      accounts come from a cloud-init seed
  mkimage --variant test --size 512M test.raw
                                      a few seconds from start to shell, with fio and iperf3
  mkimage --variant test              only print the cached files, for scripts

Output, on standard output, one line each: disk=, format=, kernel=, initrd=, cmdline=
Exit codes: 0 done, 2 failed, 130 interrupted.";

pub(crate) fn run() -> Result<()> {
    let cli = Cli::parse();
    let runner = Runner::new(|step| eprintln!("mkimage: {step}"), cli.verbose);
    runner.catch_signals()?;
    if cli.install {
        install_missing(&runner)?;
    }
    let request = cli.request()?;
    let freshness = if cli.update {
        Freshness::Newest
    } else {
        Freshness::Cached
    };
    let cache = Cache::of_user(runner);
    let image = cache.image(&request, freshness)?;
    let (disk, format, kernel, initrd) = match &cli.output {
        None => (image.disk(), Format::Raw, image.kernel(), image.initrd()),
        Some(output) => {
            let by_name = match output.extension().is_some_and(|e| e == "qcow2") {
                true => Format::Qcow2,
                false => Format::Raw,
            };
            let format = cli.format.unwrap_or(by_name);
            let outputs = cache.export(&image, output, format, cli.force)?;
            (outputs.disk, format, outputs.kernel, outputs.initrd)
        }
    };
    println!("disk={}", disk.display());
    println!("format={}", format.name());
    println!("kernel={}", kernel.display());
    println!("initrd={}", initrd.display());
    println!("cmdline={}", image.cmdline());
    Ok(())
}

impl Cli {
    fn request(&self) -> Result<Request> {
        let mut request = Request::new(self.suite, self.variant).with_packages(&self.include)?;
        if let Some(mirror) = &self.mirror {
            request = request.with_mirror(mirror)?;
        }
        if let Some(size) = self.size {
            request = request.with_size(size)?;
        }
        Ok(request)
    }
}

/// Reads a size such as 512M or 20G, in bytes.
fn size(text: &str) -> std::result::Result<u64, Error> {
    let wrong = || Error::Usage(format!("{text:?} is no size such as 512M or 20G"));
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let shift = match unit.to_ascii_uppercase() {
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return Err(wrong()),
    };
    let number = text[..at].parse::<u64>().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        let cli = Cli::parse_from(["mkimage", "--include", "a1,b2", "--include=c3", "x.qcow2"]);
        assert_eq!(cli.include, ["a1", "b2", "c3"]);
    }

    #[test]
    fn sizes() {
        assert_eq!(size("512M").unwrap(), 512 << 20);
        assert_eq!(size("2g").unwrap(), 2 << 30);
        for wrong in ["", "M", "5", "-1G", "1.5G", "99999999999999T", "5é", "1GG"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
