//! Disks: opened as the configuration says, put on the PCI bus, and closed at the end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use strata_block::{
    BlockControl, BlockDevice, BlockOptions, Disk, DiskOptions, ErrorPolicy, FailureSink, Format,
    Limits,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Pci;
use crate::config::DiskConfig;
use crate::error::Error;

/// What a qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The machine's disks, from their owner's side.
pub struct Disks {
    controls: Vec<BlockControl>,
    stopped: Arc<EventFd>,
}

impl Disks {
    /// Opens the disks of `configs` and puts them on the bus.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::FormatNeeded`], and as [`Pci::add`].
    pub fn create(configs: &[DiskConfig], pci: &Pci) -> Result<Self, Error> {
        let stopped = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        let mut disks = Self {
            controls: Vec::with_capacity(configs.len()),
            stopped: Arc::new(stopped),
        };
        for config in configs {
            disks.add(config, pci)?;
        }
        Ok(disks)
    }

    fn add(&mut self, config: &DiskConfig, pci: &Pci) -> Result<(), Error> {
        let disk = Disk::open(&DiskOptions {
            path: config.path.clone(),
            format: format(config)?,
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

fn begins_with_qcow2(path: &Path) -> bool {
    let mut head = [0; QCOW2_MAGIC.len()];
    // What can not be read is for the disk itself to complain of.
    File::open(path).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == QCOW2_MAGIC
}
