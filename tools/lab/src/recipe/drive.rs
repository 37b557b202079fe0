//! The read-only drive that gives level 1 its kernels, initramfs and modules.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Kernel, guest};
use crate::command::checked;
use crate::error::{Error, Result};

/// Builds the drive `to` (ext4). It holds `initrd`, and for each kernel series a directory with
/// `bzImage`, `vmlinux` and `initrd` (with the power button's drivers), and level 1's modules.
pub(crate) fn build(kernels: &[Kernel], busybox: &[u8], stage: &Path, to: &Path) -> Result<()> {
    let create = |dir: &Path| fs::create_dir_all(dir).map_err(Error::file("create", dir));
    let write = |name: &Path, bytes: &[u8]| {
        fs::write(stage.join(name), bytes).map_err(Error::file("write", stage.join(name)))
    };
    create(&stage.join("modules"))?;
    write(Path::new("initrd"), &guest::initramfs(busybox, None)?)?;
    for (number, kernel) in kernels.iter().enumerate() {
        let dir = stage.join(kernel.series);
        create(&dir)?;
        for name in ["bzImage", "vmlinux"] {
            let (from, to) = (kernel.dir.join(name), dir.join(name));
            fs::hard_link(&from, to).map_err(Error::file("link", &from))?;
        }
        let initrd = guest::initramfs(busybox, Some(kernel))?;
        write(&Path::new(kernel.series).join("initrd"), &initrd)?;
        if number == 0 {
            stage_modules(kernel, stage)?;
        }
    }
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(stage)
        .arg(to);
    checked(mke2fs.arg("512M"))?;
    fs::remove_dir_all(stage).map_err(Error::file("remove", stage))
}

/// Level 1's own modules, with the list of dependencies that `modprobe` wants.
fn stage_modules(kernel: &Kernel, stage: &Path) -> Result<()> {
    let to = stage.join("modules").join(&kernel.release);
    checked(
        Command::new("cp")
            .arg("-al")
            .arg(kernel.dir.join("modules"))
            .arg(&to),
    )?;
    let tree = stage.join("depmod");
    let lib = tree.join("lib");
    fs::create_dir_all(&lib).map_err(Error::file("create", &lib))?;
    checked(
        Command::new("ln")
            .arg("-s")
            .arg("../../modules")
            .arg(lib.join("modules")),
    )?;
    let mut depmod = Command::new("busybox");
    checked(
        depmod
            .args(["depmod", "-b"])
            .arg(&tree)
            .arg(&kernel.release),
    )?;
    fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))
}
