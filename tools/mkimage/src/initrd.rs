//! The test image's initramfs: what it takes to find and mount the root file system, no more.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use strata_lab::cpio::Archive;

use crate::error::{Error, Result};

/// What the disk hangs on; ext4 is built into Debian's cloud kernels.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// What the kernel's build puts behind a signed module (kernel, Documentation/admin-guide/
/// module-signing.rst), and the bytes of `struct module_signature` before it, whose last field is
/// the signature's size, big-endian.
const SIGNED: &[u8] = b"~Module signature appended~\n";
const SIGNATURE_INFO: usize = 12;

/// Builds it from an unpacked tree's busybox and modules.
pub(crate) fn build(tree: &Path) -> Result<Vec<u8>> {
    let read = |path: PathBuf| fs::read(&path).map_err(Error::file("read", &path));
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "modules", "proc", "root"] {
        archive.directory(dir);
    }
    archive
        .device("dev/console", 5, 1)
        .file("bin/busybox", 0o755, &read(tree.join("usr/bin/busybox"))?)
        .file("init", 0o755, include_bytes!("recipe/initrd-init.sh"));
    let modules = modules_dir(tree)?;
    let dependencies = fs::read_to_string(modules.join("modules.dep"))
        .map_err(Error::file("read", modules.join("modules.dep")))?;
    let mut order = String::new();
    for path in load_order(&dependencies, &MODULES) {
        let name = path.rsplit('/').next().unwrap_or(path);
        let module = read(modules.join(path))?;
        // A kernel that does not insist on a signature checks none, and boots sooner.
        archive.file(&format!("modules/{name}"), 0o644, unsigned(&module));
        order += name;
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// The one directory below `lib/modules`.
fn modules_dir(tree: &Path) -> Result<PathBuf> {
    let dir = tree.join("usr/lib/modules");
    let mut entries = fs::read_dir(&dir).map_err(Error::file("list", &dir))?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(Error::file("list", &dir))?.path()),
        None => Err(Error::file("find a kernel's modules in", &dir)(
            std::io::ErrorKind::NotFound.into(),
        )),
    }
}

/// The files of these modules and of what they depend on, each after its own dependencies. One
/// that `modules.dep` does not list is built in.
fn load_order<'a>(dependencies: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines: HashMap<_, _> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        let found = lines.iter().find(|(path, _)| module_name(path) == *name);
        if let Some((path, needed)) = found {
            // modprobe's own rule: a line lists all of its dependencies, the deepest last.
            let needed = needed.split_ascii_whitespace();
            for path in deepest_first(&lines, needed).into_iter().chain([*path]) {
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
    }
    order
}

/// Sorts modules by how many others they depend on: busybox's depmod keeps no order.
fn deepest_first<'a>(
    lines: &HashMap<&str, &str>,
    paths: impl Iterator<Item = &'a str>,
) -> Vec<&'a str> {
    let mut paths: Vec<_> = paths.collect();
    paths.sort_by_key(|path| lines.get(path).map_or(0, |n| n.split_whitespace().count()));
    paths
}

fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

/// A module without its signature; as it is if it has none, or one that can not be.
fn unsigned(module: &[u8]) -> &[u8] {
    let without = || {
        let signed = module.strip_suffix(SIGNED)?;
        let size = u32::from_be_bytes(*signed.last_chunk()?);
        let behind = usize::try_from(size).ok()?.checked_add(SIGNATURE_INFO)?;
        signed.get(..signed.len().checked_sub(behind)?)
    };
    without().unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signature_goes() {
        let module = b"\x7fELF and so on";
        let with = |signature: &[u8], size: u32| {
            let size = size.to_be_bytes();
            [&module[..], signature, &[0; 8], &size, SIGNED].concat()
        };
        assert_eq!(unsigned(&with(b"signature", 9)), module);
        assert_eq!(unsigned(module), module);
        for size in [u32::MAX, module.len() as u32 + 10] {
            let lying = with(b"signature", size);
            assert_eq!(unsigned(&lying), lying);
        }
        // Neither does one that ends before there is room for a size.
        assert_eq!(unsigned(SIGNED), SIGNED);
        let short = [&[0; 3], SIGNED].concat();
        assert_eq!(unsigned(&short), short);
    }

    #[test]
    fn dependencies_come_first() {
        let text = "k/virtio_pci.ko: k/modern.ko k/virtio.ko k/virtio_ring.ko\n\
                    k/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko\n\
                    k/virtio.ko: k/virtio_ring.ko\n\
                    k/modern.ko:\nk/virtio_ring.ko:\nk/other.ko: k/virtio.ko\n";
        let order = load_order(text, &["virtio_pci", "virtio_blk", "built_in"]);
        let at = |name: &str| order.iter().position(|p| *p == name).unwrap();
        assert_eq!(order.len(), 5);
        assert!(at("k/virtio_ring.ko") < at("k/virtio.ko"));
        assert!(at("k/virtio.ko") < at("k/virtio_pci.ko"));
        assert!(at("k/modern.ko") < at("k/virtio_pci.ko"));
        assert!(at("k/virtio_pci.ko") < at("k/virtio_blk.ko"));
    }
}
