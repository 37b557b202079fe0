//! Level 1: QEMU's command line and the initramfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{ASSETS, Config, Kernel, find_module};
use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::protocol::PORT;

const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lab-agent"));

/// What it takes to mount the assets and to hear the host. The rest is on the assets' drive.
const EARLY_MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];

/// `quiet` and the others save emulated time; `panic=-1` ends a level 1 that panics.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check \
    nowatchdog cryptomgr.notests random.trust_cpu=on";

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root XDG_CACHE_HOME=/root/.cache
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o size=90% tmp /tmp
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
mount -t ext4 -o ro,noload /dev/vda @ASSETS@
ln -s @ASSETS@/modules /lib/modules
modprobe kvm_amd npt=1
modprobe tun
ip link set lo up
ulimit -n 65536
cd /root
/bin/lab-agent serve
poweroff -f
"#;

/// The initramfs of level 1.
pub(crate) fn initramfs(kernel: &Kernel, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in [
        "bin", "dev", "lib", "modules", "proc", "root", "sys", "tmp", ASSETS,
    ] {
        archive.directory(dir);
    }
    archive
        .device("dev/console", 5, 1)
        .file("bin/busybox", 0o755, busybox)
        .file("bin/lab-agent", 0o755, AGENT)
        .file("init", 0o755, INIT.replace("@ASSETS@", ASSETS).as_bytes())
        .file("modules/order", 0o644, EARLY_MODULES.join("\n").as_bytes());
    let modules = kernel.dir.join("modules");
    for name in EARLY_MODULES {
        let found = find_module(&modules, name).map_err(Error::file("search", &modules))?;
        // One that is built in needs no loading; init's complaint is not shown.
        if let Some(path) = found {
            let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
            archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
        }
    }
    Ok(archive.finish())
}

/// QEMU's command line for a level 1 whose files lie in `base`. Its standard input is the agent's
/// socket, its standard output the control socket, and its standard error takes the console.
pub(crate) fn command(base: &Path, config: &Config) -> Command {
    let thread = if config.icount { "single" } else { "multi" };
    let file = |name: &str| base.join(name).display().to_string().replace(',', ",,");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "q35",
            "-cpu",
            "EPYC",
            "-no-user-config",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-accel", &format!("tcg,thread={thread},tb-size=512")])
        .args([
            "-m",
            &config.memory_mib.to_string(),
            "-smp",
            &config.cpus.to_string(),
        ])
        .args(["-display", "none", "-serial", "file:/dev/fd/2"])
        .arg("-kernel")
        .arg(base.join("bzImage"))
        .arg("-initrd")
        .arg(base.join("level1.cpio"))
        .args(["-append", CMDLINE])
        .arg("-drive")
        .arg(format!(
            "if=none,id=lab,format=raw,read-only=on,file={}",
            file("assets.ext4")
        ))
        .args(["-device", "virtio-blk-pci,drive=lab"])
        .args([
            "-chardev",
            "socket,id=agent,fd=0",
            "-device",
            "virtio-serial-pci",
        ])
        .args([
            "-device",
            &format!("virtserialport,chardev=agent,name={PORT}"),
        ])
        .args([
            "-chardev",
            "socket,id=qmp,fd=1",
            "-mon",
            "chardev=qmp,mode=control",
        ]);
    if config.icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    command
}
