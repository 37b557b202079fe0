//! The programs that are measured, and how each is told to boot the same guest.

use std::path::PathBuf;

use programs::{QEMU_PROGRAM, STRATA, on_path, qemu, qemu_firmware, upload, words};
use serde_json::json;
use strata_lab::{ASSETS, CMDLINE, Format, Upload};

/// What a program needs in level 1 beside itself and its libraries, to boot a kernel series.
type Files = fn(&str) -> Result<Vec<Upload>, String>;

/// A way to give one program its kernel.
pub(crate) struct Setup {
    /// What the table calls it.
    pub(crate) name: &'static str,
    pub(crate) format: Format,
    pub(crate) args: Vec<String>,
}

impl Setup {
    fn new(name: &'static str, format: Format, args: &str) -> Self {
        let args = words(args);
        Self { name, format, args }
    }
}

/// A program, and the ways in which it boots.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) setups: Vec<Setup>,
    files: Files,
}

/// A program that strata is compared with.
struct Peer {
    name: &'static str,
    /// What it is called on the path.
    program: &'static str,
    setups: fn() -> Vec<Setup>,
    files: Files,
}

const KVMTOOL: &str = "run --kernel {kernel} --initrd {initrd} --params {cmdline} --cpus {cpus} \
    --mem {memory_mib} --console serial --network mode=none";

const FIRECRACKER: &str = "--no-api --no-seccomp --config-file /root/firecracker.json";

const PEERS: [Peer; 3] = [
    Peer {
        name: "firecracker",
        program: "firecracker",
        setups: || vec![Setup::new("ELF", Format::Elf, FIRECRACKER)],
        files: firecracker_files,
    },
    Peer {
        name: "qemu",
        program: QEMU_PROGRAM,
        setups: || {
            let words = qemu(false);
            vec![
                Setup::new("microvm, ELF", Format::Elf, &words),
                Setup::new("microvm, bzImage", Format::BzImage, &words),
            ]
        },
        files: |_| qemu_firmware(),
    },
    Peer {
        name: "kvmtool",
        program: "lkvm",
        setups: || vec![Setup::new("bzImage", Format::BzImage, KVMTOOL)],
        files: |_| Ok(Vec::new()),
    },
];

impl Program {
    /// `strata`, its default first.
    pub(crate) fn strata(path: PathBuf) -> Self {
        let with = |more| format!("{STRATA} {more}");
        let setups = vec![
            // Whose warm-up lets strata keep what it makes of the kernel and of the initramfs.
            Setup::new("extracted", Format::Extracted, STRATA),
            Setup::new(
                "extracted, split",
                Format::Extracted,
                &with("--irqchip split"),
            ),
            Setup::new("ELF", Format::Elf, STRATA),
            Setup::new("bzImage", Format::Extracted, &with("--kernel-mode bzimage")),
            Setup::new("first time", Format::BzImage, STRATA),
        ];
        Self {
            name: "strata".to_owned(),
            path,
            setups,
            files: |_| Ok(Vec::new()),
        }
    }

    /// What the program needs in level 1 beside itself and its libraries.
    pub(crate) fn files(&self, series: &str) -> Result<Vec<Upload>, String> {
        (self.files)(series)
    }
}

impl Peer {
    fn at(&self, path: PathBuf) -> Program {
        let (name, setups, files) = (self.name.to_owned(), (self.setups)(), self.files);
        Program {
            name,
            path,
            setups,
            files,
        }
    }
}

/// The peers that are named (`NAME=PATH`), and those on the path.
pub(crate) fn peers(named: &[String]) -> Result<Vec<Program>, String> {
    let mut paths = [const { None }; PEERS.len()];
    for text in named {
        let pair = text.split_once('=');
        let found = pair.and_then(|(name, path)| {
            Some((
                PEERS.iter().position(|peer| peer.name == name)?,
                PathBuf::from(path),
            ))
        });
        let names = PEERS.map(|peer| peer.name).join(", ");
        let (index, path) = found
            .ok_or_else(|| format!("--peer is NAME=PATH, NAME one of {names}, not {text:?}"))?;
        if !path.is_file() {
            return Err(format!("{} is not there", path.display()));
        }
        paths[index] = Some(path);
    }
    let found = PEERS.iter().zip(paths).filter_map(|(peer, path)| {
        let path = path.or_else(|| on_path(peer.program))?;
        Some(peer.at(path))
    });
    Ok(found.collect())
}

fn firecracker_files(series: &str) -> Result<Vec<Upload>, String> {
    let config = json!({
        "boot-source": {
            "kernel_image_path": format!("{ASSETS}/{series}/vmlinux"),
            "initrd_path": format!("{ASSETS}/initrd"),
            "boot_args": CMDLINE,
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
        "drives": [],
    });
    Ok(vec![upload(
        "/root/firecracker.json",
        0o644,
        config.to_string().into_bytes(),
    )])
}
