//! What is asked for, and what comes of it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Suite {
    /// Debian 12, Linux 6.1
    Bookworm,
    /// Debian 13, Linux 6.12
    Trixie,
}

impl Suite {
    /// Its name in the archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// A kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Variant {
    /// systemd, DHCP, root's login on the console; root on /dev/vda1
    Standard,
    /// A tiny init that prints READY and gives a shell; fio, e2fsprogs, iperf3, iproute2; no
    /// package manager; root on /dev/vda
    Test,
}

impl Variant {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Test => "test",
        }
    }

    /// The packages that it consists of, beside what they depend on.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Standard => &[
                "ca-certificates",
                "dbus",
                "e2fsprogs",
                "iproute2",
                "iputils-ping",
                "kmod",
                "less",
                "linux-image-cloud-amd64",
                "login",
                "passwd",
                "procps",
                "systemd-resolved",
                "systemd-sysv",
                "udev",
                "vim-tiny",
            ],
            Self::Test => &[
                "busybox-static",
                "dash",
                "e2fsprogs",
                "fio",
                "iperf3",
                "iproute2",
                "linux-image-cloud-amd64",
            ],
        }
    }

    /// The kernel command line that boots it.
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::Standard => "console=ttyS0 root=/dev/vda1 ro quiet",
            Self::Test => "console=ttyS0 root=/dev/vda quiet panic=-1",
        }
    }

    /// The size of its disk unless another is asked for, in bytes.
    pub fn default_size(self) -> u64 {
        match self {
            Self::Standard => 2 << 30,
            Self::Test => 256 << 20,
        }
    }
}

/// What some packages need for use in a machine, beyond what they depend on.
const COMPANIONS: [(&str, &[&str]); 1] = [("cloud-init", &["netbase", "openssh-server", "sudo"])];

/// The smallest and the largest disk, in bytes: ext4 and the partition table need some, and ext4
/// with blocks of 4 KiB and 32 bits ends at 16 TiB.
const SIZES: std::ops::RangeInclusive<u64> = (64 << 20)..=(8 << 40);

/// An image that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    suite: Suite,
    variant: Variant,
    include: Vec<String>,
    mirror: Option<String>,
    size: u64,
}

impl Request {
    /// The image of a variant as it comes.
    pub fn new(suite: Suite, variant: Variant) -> Self {
        Self {
            suite,
            variant,
            include: Vec::new(),
            mirror: None,
            size: variant.default_size(),
        }
    }

    /// With these packages of Debian too. Their order and repetition say nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no package's name (Debian Policy 5.6.1).
    pub fn with_packages<S: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        for name in names {
            let name = name.as_ref();
            if !is_package(name) {
                return Err(Error::Usage(format!(
                    "{name:?} is no package's name: those consist of a-z, 0-9, +, - and ."
                )));
            }
            self.include.push(name.to_owned());
        }
        self.include.sort_unstable();
        self.include.dedup();
        Ok(self)
    }

    /// From this archive alone, instead of Debian's with its updates and security updates.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no address of an archive.
    pub fn with_mirror(mut self, url: &str) -> Result<Self> {
        let scheme = ["http://", "https://", "file:/"];
        if !scheme.iter().any(|scheme| url.starts_with(scheme))
            || !url.chars().all(|c| c.is_ascii_graphic())
        {
            return Err(Error::Usage(format!(
                "{url:?} is no archive's address: it begins with http://, https:// or file:/"
            )));
        }
        self.mirror = Some(url.trim_end_matches('/').to_owned());
        Ok(self)
    }

    /// With a disk of this many bytes, of which those that nothing was written to take no space.
    ///
    /// # Errors
    /// [`Error::Usage`] unless it is whole MiB between 64 MiB and 8 TiB.
    pub fn with_size(mut self, bytes: u64) -> Result<Self> {
        if !SIZES.contains(&bytes) || !bytes.is_multiple_of(1 << 20) {
            return Err(Error::Usage(format!(
                "a disk of {bytes} bytes: it must have whole MiB, 64M to 8T"
            )));
        }
        self.size = bytes;
        Ok(self)
    }

    /// The release.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The variant.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The archive that is used instead of Debian's.
    pub(crate) fn mirror(&self) -> Option<&str> {
        self.mirror.as_deref()
    }

    /// All packages that are asked for by name, sorted.
    pub(crate) fn packages(&self) -> Vec<&str> {
        let own = self.variant.packages().iter().copied();
        let asked = self.include.iter().map(String::as_str);
        let more = COMPANIONS
            .iter()
            .filter(|(name, _)| self.include.iter().any(|i| i == name))
            .flat_map(|(_, companions)| companions.iter().copied());
        let mut packages: Vec<_> = own.chain(asked).chain(more).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

fn is_package(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (2..=100).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.".contains(c))
}

/// The files of a finished image, in the cache. They are read-only: copy or
/// [export](crate::Cache::export) them, or put an overlay on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    dir: PathBuf,
    variant: Variant,
}

impl Image {
    pub(crate) fn new(dir: PathBuf, variant: Variant) -> Self {
        Self { dir, variant }
    }

    /// The directory that holds them. Its name tells one content from another.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The raw disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// The kernel (a bzImage).
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// The initramfs that mounts the disk's root file system.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The kernel command line that boots it.
    pub fn cmdline(&self) -> &'static str {
        self.variant.cmdline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_a_set() {
        let request = Request::new(Suite::Bookworm, Variant::Test);
        let one = request
            .clone()
            .with_packages(["zstd", "fio", "zstd"])
            .unwrap();
        let two = request.with_packages(["fio", "zstd"]).unwrap();
        assert_eq!(one.packages(), two.packages());
        assert_eq!(one.packages().iter().filter(|p| **p == "fio").count(), 1);
    }

    #[test]
    fn cloud_init_brings_what_its_defaults_use() {
        let request = Request::new(Suite::Bookworm, Variant::Standard);
        assert!(!request.packages().contains(&"sudo"));
        let request = request.with_packages(["cloud-init"]).unwrap();
        assert!(request.packages().contains(&"sudo"));
    }

    #[test]
    fn hostile_words_are_refused() {
        let request = Request::new(Suite::Bookworm, Variant::Test);
        for name in ["", "x", "-y", "a b", "a;b", "A", "a/b", "$(x)", "--x"] {
            assert!(request.clone().with_packages([name]).is_err(), "{name}");
        }
        for url in ["", "deb.debian.org", "http://a b", "ftp://x", "http://a\nb"] {
            assert!(request.clone().with_mirror(url).is_err(), "{url}");
        }
        for size in [0, 1 << 20, (64 << 20) + 1, (8 << 40) + (1 << 20), u64::MAX] {
            assert!(request.clone().with_size(size).is_err(), "{size}");
        }
        assert!(request.with_size(64 << 20).is_ok());
    }
}
