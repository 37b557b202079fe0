//! The programs that the benches measure in the nested lab: where they are, how each is told to
//! boot the lab's guest, and what it needs beside itself there.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use strata_lab::Upload;

/// What `strata` is told, as [`strata_lab::Boot::args`].
pub const STRATA: &str =
    "run --kernel {kernel} --initrd {initrd} --cmdline {cmdline} --cpus {cpus} --memory {memory}";

/// The machine of QEMU that boots a Linux kernel soonest, but for its bus. Without its clock, Linux
/// would wait a second of emulated time for one.
const QEMU: &str = "-L /firmware -M microvm,x-option-roms=off,rtc=on,pit=off,pic=off,acpi=on \
    -accel kvm -cpu host -m {memory_mib} -smp {cpus} -nodefaults -no-user-config -display none \
    -serial stdio -no-reboot -bios qboot.rom -kernel {kernel} -initrd {initrd} -append {cmdline}";

/// What QEMU is called on the path.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// What QEMU is told for a microvm, as [`strata_lab::Boot::args`]: with the bus of virtio-pci
/// devices, which costs its boot some time, or without any.
pub fn qemu(pci: bool) -> String {
    let pcie = if pci { "on" } else { "off" };
    format!("{QEMU} -machine pcie={pcie}")
}

/// QEMU's firmware and the option ROMs that load the kernel, where [`qemu`]'s words look for them.
///
/// # Errors
/// A sentence that names the file which is not there.
pub fn qemu_firmware() -> Result<Vec<Upload>, String> {
    let read = |name: &str| {
        let path = format!("/usr/share/qemu/{name}");
        let contents = fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(upload(&format!("/firmware/{name}"), 0o644, contents))
    };
    ["qboot.rom", "linuxboot_dma.bin", "pvh.bin"]
        .into_iter()
        .map(read)
        .collect()
}

/// A file for the lab, at `path` there.
pub fn upload(path: &str, permissions: u32, contents: Vec<u8>) -> Upload {
    Upload {
        path: path.to_owned(),
        permissions,
        contents,
    }
}

/// A command line's words.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The file that the shell would run as `program`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program of the workspace that was built beside the running one.
///
/// # Errors
/// A sentence that says how to build what is not there.
pub fn built(name: &str) -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = exe.with_file_name(name);
    if !path.is_file() {
        return Err(format!(
            "{name} is not there: build it with `cargo build --release -p {name}`"
        ));
    }
    Ok(path)
}
