//! Boots a stock guest in level 1 and measures it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, str};

use crate::error::{Error, Result, tail};
use crate::exits::{self, Exits, Symbols};
use crate::lab::Lab;
use crate::machine::{Machine, Upload};
use crate::recipe::{ASSETS, CMDLINE, Config, MARKER, SERIES};
use crate::report::{Cost, Sections, sections};
use crate::template::expand;

/// How much of a guest's console an error quotes, in bytes.
const QUOTED: usize = 3000;

/// How often a boot that counts instructions is started before it has failed.
const TRIES: u32 = 4;

/// The period of level 1's timer tick.
const TICK_US: u32 = 4000;

/// Where a host's file goes in level 1 if no place is named.
const HOME: &str = "/root";

/// The shape in which the monitor gets its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The bzImage as it is packaged; what the monitor may have cached of it is removed before.
    BzImage,
    /// The unpacked ELF file with its PVH entry.
    Elf,
    /// The bzImage, after two unmeasured boots that let the monitor cache what it unpacks: what all
    /// boots of a kernel but the first are.
    #[default]
    Extracted,
}

/// A boot to measure.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The program, on the host.
    pub vmm: PathBuf,
    /// Its arguments, with placeholders: `{kernel} {bzimage} {vmlinux} {initrd} {cmdline} {cpus}
    /// {memory} {memory_mib}`.
    pub args: Vec<String>,
    /// More files that it needs, for level 1.
    pub with: Vec<Upload>,
    /// A shell script that level 1 runs before; may be empty.
    pub prepare: String,
    /// A series of [`SERIES`], or a file of the host.
    pub kernel: String,
    /// How the kernel is given.
    pub format: Format,
    /// An initramfs of the host; none for the lab's own.
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    pub cmdline: String,
    /// The guest's vCPUs.
    pub cpus: u32,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// Counts instructions as time.
    pub icount: bool,
    /// How far into a tick of level 1's timer (4 ms) the monitor starts, in microseconds.
    pub phase_us: u32,
    /// How long one boot may take on the host.
    pub limit: Duration,
}

impl Boot {
    /// The usual boot of `vmm` with these arguments: 6.1, 256 MiB, one vCPU.
    pub fn new(vmm: PathBuf, args: Vec<String>) -> Self {
        Self {
            vmm,
            args,
            with: Vec::new(),
            prepare: String::new(),
            kernel: SERIES[0].to_string(),
            format: Format::default(),
            initrd: None,
            cmdline: CMDLINE.to_string(),
            cpus: 1,
            memory_mib: 256,
            icount: false,
            phase_us: 0,
            limit: Duration::from_secs(60),
        }
    }

    /// Boots `runs` times in one level 1, and gives the cost of each.
    ///
    /// # Errors
    /// [`Error::NoMarker`] shows the console of a guest that did not come up.
    pub fn measure(&self, lab: &Lab, runs: usize) -> Result<Vec<Cost>> {
        // A fault of the emulator makes some guests spin for ever (README, "A fault of QEMU's"):
        // those whose timer ticks just before level 1's own. A boot that counts instructions is
        // given up early, said, and started again at another phase of level 1's tick.
        let tries = if self.icount { TRIES } else { 1 };
        let mut boot = self.clone();
        for _ in 1..tries {
            boot.limit = self.limit / 2;
            match boot.measure_once(lab, runs) {
                Err(Error::NoMarker { .. } | Error::Timeout { .. }) => {
                    boot.phase_us = (boot.phase_us + TICK_US / TRIES) % TICK_US;
                    eprintln!(
                        "lab: no marker within {:?}; trying again in a fresh level 1",
                        boot.limit
                    );
                }
                done => return done,
            }
        }
        boot.limit = self.limit;
        boot.measure_once(lab, runs)
    }

    fn measure_once(&self, lab: &Lab, runs: usize) -> Result<Vec<Cost>> {
        let (machine, argv) = self.set_up(lab)?;
        let boot = |_| Cost::read(&self.boot_once(&machine, "probe", &argv)?, self.memory_mib);
        (0..runs).map(boot).collect()
    }

    /// Boots once and counts what the guest left for, most frequent first. Functions have names if
    /// the guest runs level 1's own kernel, where it was linked (`nokaslr`).
    ///
    /// # Errors
    /// As [`Boot::measure`].
    pub fn exits(&self, lab: &Lab) -> Result<Vec<Exits>> {
        let (machine, argv) = self.set_up(lab)?;
        let sections = self.boot_once(&machine, "exits", &argv)?;
        let symbols = if self.kernel == SERIES[0] {
            Symbols::read(
                &machine
                    .run(&["cat", "/proc/kallsyms"], self.limit)?
                    .stdout_text(),
            )
        } else {
            Symbols::default()
        };
        exits::read(&sections, &symbols)
    }

    /// A level 1 with all that the boot needs, and the monitor's command line there.
    fn set_up(&self, lab: &Lab) -> Result<(Machine, Vec<String>)> {
        let machine = lab.restore(&self.level1())?;
        let mut files = self.with.clone();
        let mut argv = vec![place(&self.vmm, &mut files)?];
        libraries(&self.vmm, &mut files)?;
        let values = self.values(&mut files)?;
        machine.put(&files)?;
        machine
            .run(&["sh", "-c", &self.prepare], self.limit)?
            .checked("the preparing script")?;
        let values: Vec<_> = values.iter().map(|(name, v)| (*name, v.as_str())).collect();
        for arg in &self.args {
            argv.push(expand(arg, &values)?);
        }
        self.warm(&machine, &argv[0], &values)?;
        if self.format == Format::Extracted {
            // The first fills the monitor's cache; the second finds it as a third will, with pages
            // that level 1 has seen to be in use.
            for _ in 0..2 {
                self.boot_once(&machine, "probe", &argv)?;
            }
        }
        Ok((machine, argv))
    }

    /// A level 1 that the guest fits in.
    fn level1(&self) -> Config {
        let memory_mib = (self.memory_mib.saturating_add(768))
            .next_power_of_two()
            .max(1024);
        Config {
            memory_mib,
            icount: self.icount,
            ..Config::default()
        }
    }

    fn values(&self, files: &mut Vec<Upload>) -> Result<Vec<(&'static str, String)>> {
        let (bzimage, vmlinux) = if SERIES.contains(&self.kernel.as_str()) {
            let dir = format!("{ASSETS}/{}", self.kernel);
            (format!("{dir}/bzImage"), format!("{dir}/vmlinux"))
        } else {
            let path = place(Path::new(&self.kernel), files)?;
            (path.clone(), path)
        };
        let kernel = if self.format == Format::Elf {
            &vmlinux
        } else {
            &bzimage
        };
        let initrd = match &self.initrd {
            Some(path) => place(path, files)?,
            None => format!("{ASSETS}/initrd"),
        };
        Ok(vec![
            ("kernel", kernel.clone()),
            ("bzimage", bzimage),
            ("vmlinux", vmlinux),
            ("initrd", initrd),
            ("cmdline", self.cmdline.clone()),
            ("cpus", self.cpus.to_string()),
            ("memory", format!("{}M", self.memory_mib)),
            ("memory_mib", self.memory_mib.to_string()),
        ])
    }

    /// Reads what the boot will read: a boot is measured with warm caches, as most boots are.
    fn warm(&self, machine: &Machine, vmm: &str, values: &[(&str, &str)]) -> Result<()> {
        let named = |name| {
            values
                .iter()
                .find(|(n, _)| *n == name)
                .map_or("", |(_, v)| *v)
        };
        let mut argv = vec!["md5sum", vmm];
        argv.extend(["kernel", "initrd"].map(named));
        machine.run(&argv, self.limit)?.checked("md5sum").map(drop)
    }

    fn boot_once(&self, machine: &Machine, probe: &str, argv: &[String]) -> Result<Sections> {
        if self.format == Format::BzImage {
            machine.run(&["sh", "-c", "rm -rf $XDG_CACHE_HOME"], self.limit)?;
        }
        let seconds = self.limit.as_secs().to_string();
        let phase = self.phase_us.to_string();
        let mut command = vec!["lab-agent", probe, MARKER, &seconds, &phase];
        command.extend(argv.iter().map(String::as_str));
        let output = match machine.run(&command, self.limit) {
            Err(Error::Timeout { .. }) => return Err(self.late(machine)),
            output => output?.checked("lab-agent probe")?,
        };
        let sections = sections(&output.stdout).ok_or_else(|| Error::Report {
            what: "sections".into(),
        })?;
        let text = |name| {
            sections
                .get(name)
                .map_or_else(String::new, |text| tail(text, QUOTED))
        };
        if text("marked") != "yes" {
            let (status, console, stderr) = (text("status"), text("console"), text("stderr"));
            return Err(Error::NoMarker {
                status,
                console,
                stderr,
            });
        }
        Ok(sections)
    }

    /// What is known of a boot that took longer than its limit on the host.
    fn late(&self, machine: &Machine) -> Error {
        Error::NoMarker {
            status: format!("none within {} s", self.limit.as_secs()),
            console: words(machine, "/tmp/vmm.console"),
            stderr: words(machine, "/tmp/vmm.stderr"),
        }
    }
}

/// The end of a file in level 1, for an error; nothing if there is none.
fn words(machine: &Machine, path: &str) -> String {
    machine
        .get(path)
        .map_or_else(|_| String::new(), |bytes| tail(&bytes, QUOTED))
}

/// Puts a file of the host on the list of uploads, and gives its path in level 1.
fn place(file: &Path, files: &mut Vec<Upload>) -> Result<String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("{HOME}/{name}");
    let contents = fs::read(file).map_err(Error::file("read", file))?;
    files.push(Upload {
        path: path.clone(),
        permissions: 0o755,
        contents,
    });
    Ok(path)
}

/// Puts the shared libraries of a program on the list, where it will look for them.
fn libraries(program: &Path, files: &mut Vec<Upload>) -> Result<()> {
    // It fails for a static program, which is as good.
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(Error::file("run", "ldd"))?;
    for path in library_paths(&String::from_utf8_lossy(&output.stdout)) {
        let contents = fs::read(path).map_err(Error::file("read", path))?;
        files.push(Upload {
            path: path.to_string(),
            permissions: 0o755,
            contents,
        });
    }
    Ok(())
}

/// The paths in `ldd`'s answer: `name => /path (address)` or `/path (address)`.
fn library_paths(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| {
        let found = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        let (path, _) = found.split_once(" (")?;
        path.starts_with('/').then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibnone.so => not found\n";
        let paths: Vec<_> = library_paths(ldd).collect();
        assert_eq!(paths, ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(library_paths("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn level_1_is_larger_than_its_guest() {
        let mut boot = Boot::new("vmm".into(), Vec::new());
        assert_eq!(boot.level1().memory_mib, 1024);
        boot.memory_mib = 6144;
        assert_eq!(boot.level1().memory_mib, 8192);
    }
}
