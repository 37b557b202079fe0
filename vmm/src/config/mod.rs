//! A machine's configuration: one schema for the command line and for configuration files.

mod balloon;
mod cloud_init;
mod disk;
mod file;
mod memory;
mod net;
mod options;
mod qmp;
mod secret;
mod serial;
mod virtio_console;
mod vsock;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strata_vcpu::CpuModel;

pub use balloon::BalloonConfig;
pub use cloud_init::CloudInitConfig;
pub use disk::{DiskConfig, EncryptConfig};
pub use memory::{HugePages, MemoryConfig};
pub use net::{DEFAULT_MTU, NetConfig, TapName, Vhost};
pub(crate) use options::{Options, check_id, from_table};
pub use qmp::QmpConfig;
pub use secret::SecretConfig;
pub use serial::SerialTarget;
pub use virtio_console::ConsolePort;
pub use vsock::VsockConfig;

use crate::error::Error;

/// The kernel's command line where none is given: a console on the serial port, and a panic
/// that ends the guest instead of halting it forever.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

/// The same, where the virtio console is the one on the terminal.
pub const DEFAULT_HVC_CMDLINE: &str = "console=hvc0 panic=-1";

/// The most vCPUs a machine may have: APIC id 255 is the broadcast address.
pub const MAX_CPUS: u32 = 254;

/// Which interrupt controller the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Irqchip {
    /// Local APICs and IOAPIC in KVM: no exit to userspace.
    #[default]
    Kernel,
    /// Local APICs in KVM, the IOAPIC in strata.
    Split,
}

/// Who unpacks the kernel and the initrd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelMode {
    /// The host, once: what comes out is cached, and started directly.
    #[default]
    Extract,
    /// The guest, at every start, as a PC would.
    Bzimage,
}

/// Where the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelEntry {
    /// Where it starts fastest.
    #[default]
    Auto,
    /// By Linux's 64-bit boot protocol.
    Linux64,
    /// By PVH: in 32-bit mode, as Xen does. Only ELF kernels have this entry.
    Pvh,
}

/// What becomes of a machine whose guest reboots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// It ends, and the exit code says why.
    #[default]
    Shutdown,
    /// It starts again.
    Reset,
}

/// What the user said of a machine, on the command line or in a file. Everything is optional
/// here: the two are laid over each other before anything is required.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PartialConfig {
    /// Linux kernel: a bzImage (as /boot/vmlinuz-*) or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line [default: "console=ttyS0 panic=-1"]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Number of virtual CPUs, 1 to 254 [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_negative_numbers = true)]
    #[serde(default, deserialize_with = "deserialize_cpus")]
    pub cpus: Option<u32>,
    /// CPU model: "host", or one that every host of its kind can run, as "x86-64-v2"
    /// [default: host]
    #[arg(long, value_name = "MODEL")]
    #[serde(default, deserialize_with = "deserialize_text")]
    pub cpu: Option<CpuModel>,
    /// Guest memory: its size, and options behind it: hugepages=thp, off, 2M or 1G, and
    /// shared=on or off; as "512M" or "2G,hugepages=2M" [default: 256M]
    #[arg(long, value_name = "SIZE[,...]", allow_hyphen_values = true)]
    #[serde(default, deserialize_with = "options::deserialize_option")]
    pub memory: Option<MemoryConfig>,
    /// A disk, which the guest sees as /dev/vda, the next as /dev/vdb: its file, and options
    /// behind it: format=raw, qcow2 or probe, readonly, cache=writeback, direct or unsafe, queues=N,
    /// iops=N, bps=SIZE (operations and bytes a second), backing=on (a qcow2 image's backing files may be opened), id=NAME,
    /// serial=TEXT, on-error=report, stop or ignore. An encrypted one names a --secret:
    /// format=qcow2,encrypt.key-secret=NAME, or format=luks,key-secret=NAME
    #[arg(long, value_name = "FILE[,...]")]
    #[serde(default, deserialize_with = "options::deserialize_list")]
    pub disk: Vec<DiskConfig>,
    /// A passphrase that disks call by its name: that in a file (every byte of it, a line's end
    /// too), or data=TEXT, which others on the host can see
    #[arg(long, value_name = "id=NAME,file=PATH")]
    #[serde(default, deserialize_with = "options::deserialize_list")]
    pub secret: Vec<SecretConfig>,
    /// A network card: bridge=NAME (a tap of its own on that bridge), tap=NAME, fd=N, or user
    /// (by passt, without privileges; hostfwd=tcp::2222-:22 leads a port of the host to it);
    /// and mac=ADDR or random, mtu=N or auto (the bridge's, else 1500), queues=N, id=NAME,
    /// bps=SIZE and pps=N (bytes and frames a second, in each direction), vhost=on, auto (where the
    /// host offers it) or off
    #[arg(long, value_name = "HOW[,...]")]
    #[serde(default, deserialize_with = "options::deserialize_list")]
    pub net: Vec<NetConfig>,
    /// Give the guest random numbers of the host's (virtio-rng)
    #[arg(long, num_args = 0..=1, default_missing_value = "on", value_name = "on|off", value_parser = options::switch)]
    #[serde(default, deserialize_with = "options::some")]
    pub rng: Option<bool>,
    /// A memory balloon: how much the guest gives at its start, and options behind it:
    /// deflate-on-oom=on or off, free-page-reporting=on or off [default of each: on]
    #[arg(long, num_args = 0..=1, default_missing_value = "0", value_name = "SIZE[,...]")]
    #[serde(default, deserialize_with = "options::deserialize_option")]
    pub balloon: Option<BalloonConfig>,
    /// A virtio console, hvc0 in the guest, or with port=NAME: before it a port for a program of
    /// the guest's; its far end as for --serial
    #[arg(long, value_name = "[port=NAME:]TARGET")]
    #[serde(default)]
    pub virtio_console: Vec<ConsolePort>,
    /// Sockets between guest and host: cid=N,socket=PATH; connect to PATH and say "CONNECT PORT",
    /// or listen at PATH_PORT
    #[arg(long, value_name = "cid=N,socket=PATH")]
    #[serde(default, deserialize_with = "options::deserialize_option")]
    pub vsock: Option<VsockConfig>,
    /// What the guest does at its first boot, by cloud-init: a file of user-data, and, where they
    /// are needed, of meta-data and network-config
    #[arg(long, value_name = "FILE[,FILE[,FILE]]")]
    #[serde(default, deserialize_with = "options::deserialize_option")]
    pub cloud_init: Option<CloudInitConfig>,
    /// The serial port's far end: stdio, null, file=PATH or unix=PATH [default: stdio]
    #[arg(long, value_name = "TARGET")]
    pub serial: Option<SerialTarget>,
    /// A control socket that speaks QMP: its path; disks and networks can then be plugged in and
    /// out while the guest runs, unless hotplug=off stands behind it
    #[arg(long, value_name = "unix=PATH[,...]")]
    #[serde(default, deserialize_with = "options::deserialize_option")]
    pub qmp: Option<QmpConfig>,
    /// Interrupt controller [default: kernel]
    #[arg(long, value_name = "KIND")]
    pub irqchip: Option<Irqchip>,
    /// Who unpacks a bzImage and a compressed initrd: extract, the host, once, into a cache;
    /// bzimage, the guest, each time [default: extract]
    #[arg(long, value_name = "HOW")]
    pub kernel_mode: Option<KernelMode>,
    /// Where the kernel is entered [default: auto]
    #[arg(long, value_name = "WHERE")]
    pub kernel_entry: Option<KernelEntry>,
    /// What a guest's reboot does: shutdown, end the run with exit code 3; reset, start the machine
    /// again [default: shutdown]
    #[arg(long, value_name = "ACTION")]
    pub on_reboot: Option<OnReboot>,
    /// The kernel was built for a PVM host, which can not run any other (see `strata doctor`)
    #[arg(long, num_args = 0..=1, default_missing_value = "on", value_name = "on|off", value_parser = options::switch)]
    #[serde(default, deserialize_with = "options::some")]
    pub pvm_kernel: Option<bool>,
}

/// A machine's whole configuration.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineConfig {
    /// Linux kernel: bzImage or ELF.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// CPU model.
    #[serde(serialize_with = "serialize_text")]
    pub cpu: CpuModel,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// Disks, in the order of their slots.
    pub disk: Vec<DiskConfig>,
    /// Passphrases for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretConfig>,
    /// Network cards, in the order of their slots.
    pub net: Vec<NetConfig>,
    /// Whether the guest gets random numbers of the host's.
    pub rng: bool,
    /// The memory balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// The ports of the virtio console.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub virtio_console: Vec<ConsolePort>,
    /// The socket device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// First-boot configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInitConfig>,
    /// The serial port's far end.
    pub serial: SerialTarget,
    /// The control socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qmp: Option<QmpConfig>,
    /// Interrupt controller.
    pub irqchip: Irqchip,
    /// Who unpacks the kernel and the initrd.
    pub kernel_mode: KernelMode,
    /// Where the kernel is entered.
    pub kernel_entry: KernelEntry,
    /// What a guest's reboot does.
    pub on_reboot: OnReboot,
    /// The kernel was built for a PVM host.
    pub pvm_kernel: bool,
}

impl MachineConfig {
    /// Whether slots of the PCI bus can be filled and emptied while the guest runs: whether there is
    /// who could ask for it.
    pub fn has_hot_plug(&self) -> bool {
        self.qmp.as_ref().is_some_and(|qmp| qmp.hotplug)
    }

    /// Whether the machine has a PCI bus: whether something is on it, or may come to it.
    pub fn has_pci(&self) -> bool {
        self.has_hot_plug()
            || !self.disk.is_empty()
            || !self.net.is_empty()
            || self.rng
            || self.balloon.is_some()
            || !self.virtio_console.is_empty()
            || self.vsock.is_some()
            || self.cloud_init.is_some()
    }

    /// Whether a console is on standard input and output.
    pub fn has_stdio(&self) -> bool {
        self.serial == SerialTarget::Stdio || has_stdio(&self.virtio_console)
    }
}

impl PartialConfig {
    /// This configuration, with `lower`'s word where this one has none.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            kernel: self.kernel.or(lower.kernel),
            initrd: self.initrd.or(lower.initrd),
            cmdline: self.cmdline.or(lower.cmdline),
            cpus: self.cpus.or(lower.cpus),
            cpu: self.cpu.or(lower.cpu),
            memory: self.memory.or(lower.memory),
            // The file's come first: they keep their names in the guest.
            disk: [lower.disk, self.disk].concat(),
            secret: [lower.secret, self.secret].concat(),
            net: [lower.net, self.net].concat(),
            rng: self.rng.or(lower.rng),
            balloon: self.balloon.or(lower.balloon),
            virtio_console: [lower.virtio_console, self.virtio_console].concat(),
            vsock: self.vsock.or(lower.vsock),
            cloud_init: self.cloud_init.or(lower.cloud_init),
            serial: self.serial.or(lower.serial),
            qmp: self.qmp.or(lower.qmp),
            irqchip: self.irqchip.or(lower.irqchip),
            kernel_mode: self.kernel_mode.or(lower.kernel_mode),
            kernel_entry: self.kernel_entry.or(lower.kernel_entry),
            on_reboot: self.on_reboot.or(lower.on_reboot),
            pvm_kernel: self.pvm_kernel.or(lower.pvm_kernel),
        }
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::NoKernel`] when no kernel is named, [`Error::TakenId`] when two devices have one
    /// name, [`Error::TakenPort`] when two ports of the console have, [`Error::StdioTaken`] when two consoles are on standard input and output,
    /// [`Error::BalloonSize`] when the guest is asked for all of its memory.
    pub fn complete(mut self) -> Result<MachineConfig, Error> {
        name_all(self.disk.iter_mut().map(|disk| &mut disk.id), "disk");
        name_all(self.net.iter_mut().map(|net| &mut net.id), "net");
        self.disk.iter_mut().for_each(Options::fill);
        let ids = self.disk.iter().map(|disk| &disk.id);
        let mut seen = HashSet::new();
        for id in ids.chain(self.net.iter().map(|net| &net.id)).flatten() {
            if !seen.insert(id) {
                return Err(Error::TakenId(id.clone()));
            }
        }
        let names = self.virtio_console.iter().map(|port| &port.name);
        let mut seen = HashSet::new();
        for name in names.filter(|name| !name.is_empty()) {
            if !seen.insert(name) {
                return Err(Error::TakenPort(name.clone()));
            }
        }
        let memory = self.memory.unwrap_or_default();
        if let Some(balloon) = &self.balloon
            && balloon.size.bytes() >= memory.size.bytes()
        {
            return Err(Error::BalloonSize(balloon.size, memory.size));
        }
        let hvc = has_stdio(&self.virtio_console);
        let (serial, cmdline) = if hvc {
            (SerialTarget::Null, DEFAULT_HVC_CMDLINE)
        } else {
            (SerialTarget::Stdio, DEFAULT_CMDLINE)
        };
        let serial = self.serial.unwrap_or(serial);
        let on_stdio = self.virtio_console.iter().map(|port| &port.target);
        let on_stdio = on_stdio.chain([&serial]);
        if on_stdio.filter(|t| **t == SerialTarget::Stdio).count() > 1 {
            return Err(Error::StdioTaken);
        }
        Ok(MachineConfig {
            kernel: self.kernel.ok_or(Error::NoKernel)?,
            initrd: self.initrd,
            cmdline: self.cmdline.unwrap_or_else(|| cmdline.to_owned()),
            cpus: self.cpus.unwrap_or(1),
            cpu: self.cpu.unwrap_or_default(),
            memory,
            disk: self.disk,
            secret: self.secret,
            net: self.net,
            rng: self.rng.unwrap_or_default(),
            balloon: self.balloon,
            virtio_console: self.virtio_console,
            vsock: self.vsock,
            cloud_init: self.cloud_init,
            serial,
            qmp: self.qmp,
            irqchip: self.irqchip.unwrap_or_default(),
            kernel_mode: self.kernel_mode.unwrap_or_default(),
            kernel_entry: self.kernel_entry.unwrap_or_default(),
            on_reboot: self.on_reboot.unwrap_or_default(),
            pvm_kernel: self.pvm_kernel.unwrap_or_default(),
        })
    }
}

fn has_stdio(ports: &[ConsolePort]) -> bool {
    ports.iter().any(|port| port.target == SerialTarget::Stdio)
}

/// Gives a name to each that has none: its kind and its place in the list.
fn name_all<'a>(ids: impl Iterator<Item = &'a mut Option<String>>, kind: &str) {
    for (index, id) in ids.enumerate() {
        id.get_or_insert_with(|| format!("{kind}{index}"));
    }
}

fn check_cpus(cpus: u64) -> Result<u32, String> {
    u32::try_from(cpus)
        .ok()
        .filter(|cpus| (1..=MAX_CPUS).contains(cpus))
        .ok_or_else(|| format!("a machine has 1 to {MAX_CPUS} CPUs, not {cpus}"))
}

fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = u64::from_str(text)
        .map_err(|_| format!("a number of CPUs from 1 to {MAX_CPUS} is needed"))?;
    check_cpus(cpus)
}

fn deserialize_cpus<'de, D: serde::Deserializer<'de>>(de: D) -> Result<Option<u32>, D::Error> {
    let cpus = u64::deserialize(de)?;
    check_cpus(cpus).map(Some).map_err(serde::de::Error::custom)
}

/// Reads a value from the same text as on the command line.
fn deserialize_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn serialize_text<S: serde::Serializer>(
    value: &impl fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = PartialConfig {
            kernel: Some("file".into()),
            cpus: Some(2),
            ..PartialConfig::default()
        };
        let args = PartialConfig {
            kernel: Some("args".into()),
            ..PartialConfig::default()
        };
        let config = args.over(file).complete().unwrap();
        assert_eq!(config.kernel, PathBuf::from("args"));
        assert_eq!(config.cpus, 2);
        assert_eq!(config.cmdline, DEFAULT_CMDLINE);
    }

    #[test]
    fn a_machine_needs_a_kernel() {
        assert!(matches!(
            PartialConfig::default().complete(),
            Err(Error::NoKernel)
        ));
    }

    #[test]
    fn one_console_is_on_the_terminal() {
        let port = |text: &str| text.parse::<ConsolePort>().unwrap();
        let config = |ports: &[&str], serial| PartialConfig {
            kernel: Some("k".into()),
            virtio_console: ports.iter().map(|text| port(text)).collect(),
            serial,
            ..PartialConfig::default()
        };
        let hvc = config(&["stdio"], None).complete().unwrap();
        assert_eq!(
            (hvc.serial, &*hvc.cmdline),
            (SerialTarget::Null, DEFAULT_HVC_CMDLINE)
        );
        let both = config(&["null"], None).complete().unwrap();
        assert_eq!(
            (both.serial, &*both.cmdline),
            (SerialTarget::Stdio, DEFAULT_CMDLINE)
        );
        for (ports, serial) in [
            (&["stdio"][..], Some(SerialTarget::Stdio)),
            (&["stdio", "port=a:stdio"], None),
        ] {
            let refused = config(ports, serial).complete();
            assert!(matches!(refused, Err(Error::StdioTaken)));
        }
    }

    #[test]
    fn a_guest_is_not_asked_for_all_of_its_memory() {
        for (size, fits) in [("64M", true), ("256M", false), ("1G", false)] {
            let config = PartialConfig {
                kernel: Some("k".into()),
                balloon: Some(size.parse().unwrap()),
                ..PartialConfig::default()
            };
            assert_eq!(config.complete().is_ok(), fits, "{size}");
        }
    }

    #[test]
    fn switches_are_on_and_off_in_all_ways() {
        for (value, on) in [
            ("\"on\"", true),
            ("\"off\"", false),
            ("true", true),
            ("false", false),
        ] {
            let text = format!(r#"{{ "kernel": "k", "rng": {value}, "pvm-kernel": {value} }}"#);
            let config: PartialConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (config.rng, config.pvm_kernel),
                (Some(on), Some(on)),
                "{text}"
            );
        }
        let said = serde_json::from_str::<PartialConfig>(r#"{ "rng": "very" }"#).unwrap_err();
        assert!(said.to_string().contains("on or off"), "{said}");
    }

    #[test]
    fn cpu_counts_are_bounded() {
        for bad in ["0", "255", "256", "4294967297", "-1", "two", ""] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_cpus("254"), Ok(254));
    }
}
