//! Disks: opened as the configuration says, put on the PCI bus, and closed at the end.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use strata_block::{
    BlockControl, BlockDevice, BlockOptions, Disk, DiskOptions, ErrorPolicy, Failure, FailureSink,
    Format, Limits, Operation,
};
use strata_cloud_init::{MAX_FILE, MetaData, Seed};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Pci;
use super::node::Node;
use super::secret::Secrets;
use crate::announce::{Announcer, BlockIoError};
use crate::config::{CloudInitConfig, DiskConfig, MachineConfig};
use crate::error::{Chain, Error};

/// What a qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The machine's disks, from their owner's side: that of the main thread.
pub struct Disks {
    list: RefCell<Vec<OpenDisk>>,
    pub(super) nodes: RefCell<Vec<Node>>,
    secrets: Secrets,
    stopped: Arc<EventFd>,
    announcer: Announcer,
}

/// A disk on the bus.
#[derive(Clone)]
pub struct OpenDisk {
    /// Its name.
    pub id: String,
    /// What it was made of.
    pub config: DiskConfig,
    /// The node that it shows, and leaves open when it goes; none for a disk of its own.
    pub node: Option<String>,
    /// The device, from outside.
    pub control: BlockControl,
}

impl OpenDisk {
    /// Makes everything durable, for good if the image is the disk's own. The device has stopped.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn close(&self) -> Result<(), Error> {
        let disk = self.control.disk();
        match &self.node {
            Some(_) if disk.read_only() => Ok(()),
            Some(_) => Ok(disk.flush()?),
            None => Ok(disk.close()?),
        }
    }
}

impl Disks {
    /// Opens the machine's disks and puts them on the bus, that of cloud-init's files last. Their
    /// failures are told by `announcer`.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::TakenSecret`], [`Error::CloudInit`], and as [`Disks::add`].
    pub fn create(config: &MachineConfig, pci: &Pci, announcer: &Announcer) -> Result<Self, Error> {
        let stopped = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Host {
            what: "create an eventfd",
            source,
        })?;
        let disks = Self {
            list: RefCell::new(Vec::with_capacity(config.disk.len())),
            nodes: RefCell::default(),
            secrets: Secrets::create(&config.secret)?,
            stopped: Arc::new(stopped),
            announcer: announcer.clone(),
        };
        for disk in &config.disk {
            disks.add(disk, pci)?;
        }
        if let Some(files) = &config.cloud_init {
            disks.add_seed(files, pci)?;
        }
        Ok(disks)
    }

    /// Opens a disk and puts it on the bus.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::FormatNeeded`], [`Error::NoSecret`], [`Error::KeyNeeded`],
    /// [`Error::NotEncrypted`], and as [`Pci::add`].
    pub fn add(&self, config: &DiskConfig, pci: &Pci) -> Result<(), Error> {
        self.add_open(config, self.open(config, format(config)?)?, None, pci)
    }

    /// Adds the disk that cloud-init reads at the guest's first boot. It is in memory only.
    fn add_seed(&self, files: &CloudInitConfig, pci: &Pci) -> Result<(), Error> {
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
            serial: Some("cidata".to_owned()),
            readonly: true,
            ..DiskConfig::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
        };
        self.add_open(&disk, self.open(&disk, Format::Raw)?, None, pci)
    }

    /// Puts a disk on the bus that is open already.
    pub(super) fn add_open(
        &self,
        config: &DiskConfig,
        disk: Arc<Disk>,
        node: Option<String>,
        pci: &Pci,
    ) -> Result<(), Error> {
        let id = config.id.as_deref().unwrap_or_default();
        let options = self.options(config, id, node.as_deref());
        let device = BlockDevice::new(disk, options)?;
        let control = device.control();
        pci.add(id, Box::new(device))?;
        self.list.borrow_mut().push(OpenDisk {
            id: id.to_owned(),
            config: config.clone(),
            node,
            control,
        });
        Ok(())
    }

    /// Opens a disk's files.
    pub(super) fn open(&self, config: &DiskConfig, format: Format) -> Result<Arc<Disk>, Error> {
        let options = DiskOptions {
            path: config.path.clone(),
            format,
            read_only: config.readonly,
            cache: config.cache,
            backing: config.backing,
        };
        let disk = match config.key() {
            Some(id) => self.open_encrypted(&options, id)?,
            None => Disk::open(&options).map_err(without_key)?,
        };
        Ok(Arc::new(disk))
    }

    fn open_encrypted(&self, options: &DiskOptions, id: &str) -> Result<Disk, Error> {
        let key = Arc::new(self.secrets.key(id)?);
        let keys = move |_: &Path| Some(Arc::clone(&key) as _);
        let disk = Disk::open_with_keys(options, Arc::new(keys))?;
        if !disk.is_encrypted() {
            return Err(Error::NotEncrypted(options.path.clone()));
        }
        Ok(disk)
    }

    fn options(&self, config: &DiskConfig, id: &str, node: Option<&str>) -> BlockOptions {
        BlockOptions {
            name: id.to_owned(),
            serial: config.serial.clone().unwrap_or_default(),
            queues: config.queues,
            limits: Limits {
                iops: config.iops.unwrap_or_default(),
                bps: config.bps.map_or(0, |bps| bps.bytes()),
            },
            read_errors: config.on_error,
            write_errors: config.on_error,
            on_failure: Some(self.on_failure(id, node)),
            ..BlockOptions::default()
        }
    }

    fn on_failure(&self, id: &str, node: Option<&str>) -> FailureSink {
        let (stopped, id) = (Arc::clone(&self.stopped), id.to_owned());
        let announcement = BlockIoError::new(&self.announcer, &id, node);
        Arc::new(move |failure| {
            announcement.announce(failure);
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

    /// The disks, in the order in which they were added.
    pub fn list(&self) -> Vec<OpenDisk> {
        self.list.borrow().clone()
    }

    /// The disk with this name.
    pub fn get(&self, id: &str) -> Option<OpenDisk> {
        self.list
            .borrow()
            .iter()
            .find(|disk| disk.id == id)
            .cloned()
    }

    /// Gives up a disk that is off the bus and closed.
    pub fn forget(&self, id: &str) {
        self.list.borrow_mut().retain(|disk| disk.id != id);
    }

    /// The secrets that disks to come may name.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Readable when a disk wants the machine to be paused.
    pub fn stopped(&self) -> &EventFd {
        &self.stopped
    }

    /// Tries again what failed and made the machine pause.
    pub fn retry(&self) {
        for disk in self.list.borrow().iter() {
            disk.control.retry();
        }
    }

    /// Makes durable what was written to the disks, and to nodes that none shows. A failure is told as
    /// that of a guest's flush.
    pub fn flush(&self) {
        for disk in self.list.borrow().iter() {
            let announcement =
                || BlockIoError::new(&self.announcer, &disk.id, disk.node.as_deref());
            flush(&disk.id, disk.control.disk(), &announcement);
        }
        for node in self.nodes.borrow().iter() {
            if let Some(disk) = &node.disk
                && self.user(&node.name).is_none()
            {
                let announcement = || BlockIoError::new(&self.announcer, "", Some(&node.name));
                flush(&node.name, disk, &announcement);
            }
        }
    }

    /// Makes everything durable and says in the images that they are closed. Their devices have
    /// stopped.
    ///
    /// # Errors
    /// [`Error::Disk`]: the first that failed. All are tried.
    pub fn close(&self) -> Result<(), Error> {
        let list = self.list.borrow();
        let nodes = self.nodes.borrow();
        let closed = list.iter().map(OpenDisk::close);
        let closed = closed.chain(nodes.iter().map(Node::close));
        closed.fold(Ok(()), Result::and)
    }
}

fn flush(name: &str, disk: &Disk, announcement: &dyn Fn() -> BlockIoError) {
    if disk.read_only() {
        return;
    }
    if let Err(error) = disk.flush() {
        let cause = match &error {
            strata_block::Error::Image { source, .. } => source.io(),
            _ => None,
        };
        log::error!("{name} is not durable: {}", Chain(&error));
        announcement().announce(&Failure {
            operation: Operation::Flush,
            policy: ErrorPolicy::Report,
            no_space: cause.is_some_and(|cause| cause.kind() == ErrorKind::StorageFull),
            reason: Chain(&error).to_string(),
        });
    }
}

/// A locked file without a key is told with the words that give one.
fn without_key(error: strata_block::Error) -> Error {
    match error {
        strata_block::Error::KeyNeeded { path } => Error::KeyNeeded(path),
        error => error.into(),
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
