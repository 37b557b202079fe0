//! Level 2: the initramfs of the stock guests.

use std::fs;
use std::io::Write;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;

use super::{Kernel, MARKER, find_module};
use crate::cpio::Archive;
use crate::error::{Error, Result};

/// What a guest needs to hear the power button, and for virtio disks, file systems on them and
/// network cards; what others need comes before them.
const MODULES: [&str; 19] = [
    "evdev",
    "button",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "rng_core",
    "virtio_rng",
    "crc32c_generic",
    "libcrc32c",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
];

const INIT: &str = r#"#!/bin/busybox sh
echo @MARKER@
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
    test -f $module && insmod $module
done
if test -e /dev/input/event0; then
    acpid -d -c /etc/acpi >/dev/null 2>&1 &
fi
exec setsid cttyhack sh
"#;

const POWER_BUTTON: &str = "#!/bin/sh\npoweroff -f\n";

/// The initramfs of a guest: a busybox whose init prints the marker before anything else, then
/// gives a shell on the console. With a kernel, it loads that kernel's drivers for the power button
/// and for virtio devices too, and powers off when the button is pressed.
pub(crate) fn initramfs(busybox: &[u8], kernel: Option<&Kernel>) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in [
        "bin", "dev", "etc", "etc/acpi", "modules", "proc", "root", "sys", "tmp",
    ] {
        archive.directory(dir);
    }
    archive
        .device("dev/console", 5, 1)
        .file("bin/busybox", 0o755, busybox)
        .file("init", 0o755, INIT.replace("@MARKER@", MARKER).as_bytes());
    if let Some(kernel) = kernel {
        archive.directory("etc/acpi/PWRF").file(
            "etc/acpi/PWRF/00000080",
            0o755,
            POWER_BUTTON.as_bytes(),
        );
        for (number, name) in MODULES.into_iter().enumerate() {
            if let Some(bytes) = module(kernel, name)? {
                archive.file(&format!("modules/{number:02}-{name}.ko"), 0o644, &bytes);
            }
        }
    }
    gzip(&archive.finish())
}

/// Packs an archive as distributions do: what others' boots were measured with.
fn gzip(archive: &[u8]) -> Result<Vec<u8>> {
    let failed = || Error::file("run", "gzip");
    let mut gzip = Command::new("gzip")
        .args(["-9", "-n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let input = gzip.stdin.take();
    thread::scope(|scope| {
        // Its output must be read meanwhile, or both would wait for each other.
        let feeder = scope.spawn(|| input.map_or(Ok(()), |mut input| input.write_all(archive)));
        let output = gzip.wait_with_output().map_err(failed())?;
        match feeder.join() {
            Ok(fed) => fed.map_err(failed())?,
            Err(panic) => resume_unwind(panic),
        }
        Ok(output.stdout)
    })
}

/// The bytes of a module, unpacked; `None` if the kernel has it built in.
fn module(kernel: &Kernel, name: &str) -> Result<Option<Vec<u8>>> {
    let modules = kernel.dir.join("modules");
    let found = find_module(&modules, name).map_err(Error::file("search", &modules))?;
    let Some(path) = found else { return Ok(None) };
    if path.extension().is_some_and(|e| e == "xz") {
        let output = Command::new("xz").arg("-dc").arg(&path).output();
        return Ok(Some(output.map_err(Error::file("unpack", &path))?.stdout));
    }
    fs::read(&path)
        .map(Some)
        .map_err(Error::file("read", &path))
}
