//! Disks: opened as the configuration says, put on the PCI bus, and closed at the end.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use strata_block::{
    BlockControl, BlockDevice, BlockOptions, Disk, DiskOptions, ErrorPolicy, FailureSink, Format,
    Limits,
};
use strata_cloud_init::{MAX_FILE, MetaData, Seed};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Pci;
use crate::config::{CloudInitConfig, DiskConfig, MachineConfig};
use crate::error::Error;

/// What a qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The machine's disks, from their owner's side.
pub struct Disks {
    controls: Vec<BlockControl>,
    stopped: Arc<EventFd>,
}

impl Disks {
    /// Opens the machine's disks and puts them on the bus, that of cloud-init's files last.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::FormatNeeded`], [`Error::File`], [`Error::CloudInit`], and as
    /// [`Pci::add`].
    pub fn create(config: &MachineConfig, pci: &Pci) -> Result<Self, Error> {
        let stopped = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        let mut disks = Self {
            controls: Vec::with_capacity(config.disk.len()),
            stopped: Arc::new(stopped),
        };
        for disk in &config.disk {
            disks.add(disk, format(disk)?, pci)?;
        }
        if let Some(files) = &config.cloud_init {
            disks.add_seed(files, pci)?;
        }
        Ok(disks)
    }

    /// Adds the disk that cloud-init reads at the guest's first boot. It is in memory only.
    fn add_seed(&mut self, files: &CloudInitConfig, pci: &Pci) -> Result<(), Error> {
        let user_data = read("user-data", &files.user_data)?;
        let meta_data = files.meta_data.as_deref();
        let meta_data = meta_data.map(|path| read("meta-data", path)).transpose()?;
        let network_config = files.network_config.as_deref();
        let network_config = network_config
            .map(|path| read("network-config", path))
            .transpose()?;
        let seed = Seed {
            user_data: &user_data,
            meta_data: meta_data
                .as_deref()
                .map_or(MetaData::Derived, MetaData::Given),
            network_config: network_config.as_deref(),
        };
        for warning in seed.warnings() {
            log::warn!("cloud-init: {warning}");
        }
        let file = seed.to_memfd()?;
        let disk = DiskConfig {
            id: Some("cidata".to_owned()),
            readonly: true,
            ..DiskConfig::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
        };
        self.add(&disk, Format::Raw, pci)
    }

    fn add(&mut self, config: &DiskConfig, format: Format, pci: &Pci) -> Result<(), Error> {
        let disk = Disk::open(&DiskOptions {
            path: config.path.clone(),
            format,
            read_only: config.readonly,
            cache: config.cache,
            backing: config.backing,
        })?;
        let id = config.id.as_deref().unwrap_or_default();
        let device = BlockDevice::new(Arc::new(disk), self.options(config, id))?;
        self.controls.push(device.control());
        pci.add(id, Box::new(device))
    }

    fn options(&self, config: &DiskConfig, id: &str) -> BlockOptions {
        let serial = config.serial.as_deref().unwrap_or(id);
        BlockOptions {
            name: id.to_owned(),
            serial: serial.chars().take(20).collect(),
            queues: config.queues,
            limits: Limits {
                iops: config.iops.unwrap_or_default(),
                bps: config.bps.map_or(0, |bps| bps.bytes()),
            },
            read_errors: config.on_error,
            write_errors: config.on_error,
            on_failure: Some(self.on_failure(id)),
            ..BlockOptions::default()
        }
    }

    fn on_failure(&self, id: &str) -> FailureSink {
        let (stopped, id) = (Arc::clone(&self.stopped), id.to_owned());
        Arc::new(move |failure| {
            if failure.policy == ErrorPolicy::Stop {
                let remedy = if failure.no_space {
                    "make room for it"
                } else {
                    "see to it"
                };
                log::error!(
                    "{id}: {}; the machine is paused: {remedy}, then send strata SIGCONT",
                    failure.reason
                );
                // It only fails when the counter is full, and then the main loop is awake already.
                let _ = stopped.write(1);
            }
        })
    }

    /// Readable when a disk wants the machine to be paused.
    pub fn stopped(&self) -> &EventFd {
        &self.stopped
    }

    /// Tries again what failed and made the machine pause.
    pub fn retry(&self) {
        self.controls.iter().for_each(BlockControl::retry);
    }

    /// Makes everything durable and says in the images that they are closed. Their devices have
    /// stopped.
    ///
    /// # Errors
    /// [`Error::Disk`]: the first that failed. All are tried.
    pub fn close(&self) -> Result<(), Error> {
        let closed = self.controls.iter().map(|control| control.disk().close());
        closed.fold(Ok(()), Result::and).map_err(Error::Disk)
    }
}

/// The format that was given, or raw. A file that says it is something else is not taken for raw
/// unasked: its guest would see the image in place of the disk, and ruin it.
fn format(config: &DiskConfig) -> Result<Format, Error> {
    match config.format {
        Some(format) => Ok(format),
        None if begins_with_qcow2(&config.path) => Err(Error::FormatNeeded(config.path.clone())),
        None => Ok(Format::Raw),
    }
}

/// A file for cloud-init, of a size that the seed takes.
fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::File {
            what,
            path: path.to_owned(),
            remedy: "name a file that you may read",
            source,
        })?;
    Ok(bytes)
}

fn begins_with_qcow2(path: &Path) -> bool {
    let mut head = [0; QCOW2_MAGIC.len()];
    // What can not be read is for the disk itself to complain of.
    File::open(path).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == QCOW2_MAGIC
}
