//! Disks of stock guests in level 1, and their check by programs that know nothing of `strata`.

use std::fs;
use std::path::Path;

use strata_mkimage::{Cache, Freshness, Request, Runner, Suite, Variant};

use crate::{CMDLINE, Guest, Level1, strata_img};

/// Where the disks lie in level 1: a file system in memory.
const DIR: &str = "/tmp/disks";

/// The test image's disk, kernel and initramfs in a level 1, beside `strata-img`. The disk
/// `base.raw` stays as it is: guests write to copies and overlays.
pub struct Disks<'a> {
    level1: &'a Level1,
}

impl<'a> Disks<'a> {
    /// Brings the test image there. It takes a level 1 of 2 GiB for a few copies of the disk.
    ///
    /// # Panics
    /// When it can not be built or brought.
    #[track_caller]
    pub fn new(level1: &'a Level1) -> Self {
        Self::with_packages(level1, &[])
    }

    /// As [`new`](Self::new), with these packages of Debian in the image.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[track_caller]
    pub fn with_packages(level1: &'a Level1, packages: &[&str]) -> Self {
        let cache = Cache::of_user(Runner::new(|step| eprintln!("mkimage: {step}"), false));
        let image = Request::new(Suite::Bookworm, Variant::Test)
            .with_packages(packages)
            .and_then(|request| cache.image(&request, Freshness::Cached))
            .unwrap_or_else(|error| panic!("{error}"));
        let put = |path: &Path, name: &str, permissions| {
            let contents = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            level1.put(name, permissions, &contents);
        };
        put(&strata_img(), "/bin/strata-img", 0o755);
        put(&image.kernel(), &format!("{DIR}/kernel"), 0o444);
        put(&image.initrd(), &format!("{DIR}/initrd"), 0o444);
        put(&image.disk(), &format!("{DIR}/base.raw"), 0o444);
        // The checker is the image's own e2fsck, from a mount that nobody else uses.
        level1.sh(&format!(
            "modprobe loop && mkdir -p /image && mount -o loop,ro {DIR}/base.raw /image && \
             mount -t tmpfs tmp /image/mnt"
        ));
        Self { level1 }
    }

    /// The path of a disk in level 1.
    pub fn path(&self, name: &str) -> String {
        format!("{DIR}/{name}")
    }

    /// Makes a raw copy of the base.
    #[track_caller]
    pub fn raw(&self, name: &str) {
        self.level1.sh(&format!(
            "cd {DIR} && cp base.raw {name} && chmod 644 {name}"
        ));
    }

    /// Makes a qcow2 copy of the base.
    #[track_caller]
    pub fn qcow2(&self, name: &str) {
        self.level1.sh(&format!(
            "cd {DIR} && strata-img convert -f raw -O qcow2 base.raw {name}"
        ));
    }

    /// Makes an empty qcow2 overlay on another disk.
    #[track_caller]
    pub fn overlay(&self, name: &str, backing: &str, format: &str) {
        self.level1.sh(&format!(
            "cd {DIR} && strata-img create -q -f qcow2 -b {backing} -F {format} {name}"
        ));
    }

    /// Starts a guest from a disk; `options` are more of `--disk`, each with a comma before it.
    #[track_caller]
    pub fn boot(&self, name: &str, format: &str, options: &str) -> Guest<'a> {
        self.boot_with(name, format, options, &[])
    }

    /// As [`Disks::boot`], with more arguments.
    #[track_caller]
    pub fn boot_with(&self, name: &str, format: &str, options: &str, more: &[&str]) -> Guest<'a> {
        let disk = format!("path={DIR}/{name},format={format}{options}");
        let mode = match options.contains("readonly=on") {
            true => "ro",
            false => "rw",
        };
        let cmdline = format!("{CMDLINE} root=/dev/vda {mode}");
        let (kernel, initrd) = (self.path("kernel"), self.path("initrd"));
        let own = [
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--cmdline",
            &cmdline,
            "--disk",
            &disk,
        ];
        self.level1.boot(&[&own, more].concat())
    }

    /// What is wrong with a disk that no guest uses: with its format, and with the file system in
    /// it. Empty if nothing is.
    #[track_caller]
    pub fn faults(&self, name: &str, format: &str) -> String {
        let check = match format {
            "raw" => String::new(),
            _ => format!("strata-img check -f {format} {name} >/tmp/check 2>&1 || cat /tmp/check;"),
        };
        self.level1.sh(&format!(
            "cd {DIR}; {check} \
             strata-img convert -f {format} -O raw {name} /image/mnt/disk || exit 1; \
             chroot /image /usr/sbin/e2fsck -fn /mnt/disk >/tmp/fsck 2>&1 || cat /tmp/fsck; \
             rm /image/mnt/disk"
        ))
    }

    /// Bytes that a file takes in level 1.
    #[track_caller]
    pub fn allocated(&self, name: &str) -> u64 {
        self.level1.number(&format!("du -k {DIR}/{name} | cut -f1")) * 1024
    }
}
