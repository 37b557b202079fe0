//! What level 1 and its guests consist of. Everything here goes into the key of the saved states.

mod drive;
mod guest;
mod level1;

pub(crate) use drive::build as build_drive;
pub(crate) use level1::{command, initramfs};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The line that a stock guest's init prints first.
pub const MARKER: &str = "READY";

/// The kernel command line that costs a stock guest least.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr \
    cryptomgr.notests tsc=reliable no_timer_check random.trust_cpu=on nowatchdog \
    8250.nr_uarts=1 init_on_alloc=0";

/// Where the drive with kernels and initramfs is mounted in level 1.
pub const ASSETS: &str = "/lab";

/// The kernel series that the lab has, level 1's own first.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// A kernel unpacked from its package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// For instance "6.1".
    pub series: &'static str,
    /// For instance "6.1.0-56-cloud-amd64".
    pub release: String,
    /// The directory that holds `bzImage`, `vmlinux` and `modules`.
    pub dir: PathBuf,
}

/// The size and clock of a level 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub cpus: u8,
    /// Counts instructions as time: one executed instruction is one virtual nanosecond. Takes one
    /// CPU.
    pub icount: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_mib: 1024,
            cpus: 1,
            icount: false,
        }
    }
}

impl Config {
    /// The name of the saved state's file.
    pub(crate) fn state_name(&self) -> String {
        let clock = if self.icount { "icount" } else { "plain" };
        format!("{clock}-{}cpu-{}m.state", self.cpus, self.memory_mib)
    }
}

/// Finds `name.ko` or `name.ko.xz` below a modules directory; a name's - and _ are the same.
fn find_module(dir: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
        } else if let Some(file) = path.file_name().and_then(|f| f.to_str())
            && let Some((stem, "ko" | "ko.xz")) = file.split_once('.')
            && stem.replace('-', "_") == name.replace('-', "_")
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
