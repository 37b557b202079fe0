//! Block nodes that come and go, limits and sizes.

use serde::Deserialize;
use strata_block::{BlockControl, Cache, Format, Limits};
use strata_qmp::{Commands, Error};

use super::{Control, check_id, refused};
use crate::config::{DiskConfig, EncryptConfig, Options, SecretConfig};

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands
        .with("blockdev-add", Control::blockdev_add)
        .with("blockdev-del", Control::blockdev_del)
        .with("object-add", Control::object_add)
        .with("object-del", Control::object_del)
        .with("block_resize", Control::block_resize)
        .with("block_set_io_throttle", Control::set_io_throttle)
}

/// An image's or a file's node (QAPI's `BlockdevOptions`, as far as there is something behind it).
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Blockdev {
    driver: Driver,
    node_name: Option<String>,
    /// Of a file.
    filename: Option<String>,
    /// Of an image: the file's node, or its options.
    file: Option<FileOrName>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    cache: CacheOptions,
    /// Whether the backing files that an image names may be opened. Unlike QEMU, which opens them
    /// unless told not to.
    backing: Option<bool>,
    /// Of an encrypted qcow2 image.
    encrypt: Option<EncryptConfig>,
    /// Of a LUKS file.
    key_secret: Option<String>,
    #[serde(rename = "discard")]
    _discard: Option<Discard>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Driver {
    File,
    HostDevice,
    Raw,
    Qcow2,
    Luks,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FileOrName {
    Name(String),
    File(FileNode),
}

/// A file's options within an image's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileNode {
    driver: Driver,
    filename: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct CacheOptions {
    direct: bool,
    no_flush: bool,
}

/// Discards always reach the file; a node that ignores them is not on offer.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Discard {
    Unmap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeName {
    node_name: String,
}

/// An object of QEMU's. There is one kind.
#[derive(Deserialize)]
#[serde(tag = "qom-type", rename_all = "kebab-case")]
enum Object {
    Secret(SecretConfig),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectId {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Resize {
    device: Option<String>,
    node_name: Option<String>,
    size: u64,
}

/// All bounds are said at once; 0 is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Throttle {
    device: Option<String>,
    id: Option<String>,
    bps: u64,
    bps_rd: u64,
    bps_wr: u64,
    iops: u64,
    iops_rd: u64,
    iops_wr: u64,
}

impl Driver {
    fn is_file(self) -> bool {
        matches!(self, Self::File | Self::HostDevice)
    }
}

impl CacheOptions {
    fn mode(&self) -> Result<Cache, Error> {
        match (self.direct, self.no_flush) {
            (false, false) => Ok(Cache::Writeback),
            (true, false) => Ok(Cache::Direct),
            (false, true) => Ok(Cache::Unsafe),
            (true, true) => Err(Error::generic("no-flush goes with the host's page cache")),
        }
    }
}

impl Control {
    fn blockdev_add(&mut self, options: Blockdev) -> Result<(), Error> {
        let name = options.node_name.as_deref();
        let name = name.ok_or_else(|| Error::generic("'node-name' is missing"))?;
        check_id(name)?;
        let (path, below) = self.file_of(&options)?;
        let config = DiskConfig {
            format: match options.driver {
                Driver::File | Driver::HostDevice => None,
                Driver::Raw => Some(Format::Raw),
                Driver::Qcow2 => Some(Format::Qcow2),
                Driver::Luks => Some(Format::Luks),
            },
            readonly: options.read_only,
            cache: options.cache.mode()?,
            backing: options.backing.unwrap_or_default(),
            encrypt: options.encrypt,
            key_secret: options.key_secret,
            ..DiskConfig::new(path)
        };
        config.check().map_err(Error::generic)?;
        let disks = &self.parts.disks;
        disks.add_node(name, config, below).map_err(refused)
    }

    /// The path of a node's file, and the node of the file below if there is one.
    fn file_of(&self, options: &Blockdev) -> Result<(String, Option<String>), Error> {
        match (options.driver.is_file(), &options.filename, &options.file) {
            (true, Some(path), None) => Ok((path.clone(), None)),
            (true, ..) => Err(Error::generic(
                "a file has a 'filename', and nothing below it",
            )),
            (false, None, Some(FileOrName::File(file))) if file.driver.is_file() => {
                Ok((file.filename.clone(), None))
            }
            (false, None, Some(FileOrName::Name(name))) => {
                let below = self.parts.disks.node(name).map_err(refused)?;
                if below.disk.is_some() {
                    return Err(Error::generic(format_args!(
                        "the node {name} is an image: what stands below one is a file"
                    )));
                }
                let path = below.config.path.to_str().unwrap_or_default().to_owned();
                Ok((path, Some(name.clone())))
            }
            (false, ..) => Err(Error::generic(
                "an image has a 'file': the name of a file's node, or its driver and filename",
            )),
        }
    }

    fn blockdev_del(&mut self, NodeName { node_name }: NodeName) -> Result<(), Error> {
        self.parts.disks.delete_node(&node_name).map_err(refused)
    }

    fn object_add(&mut self, Object::Secret(secret): Object) -> Result<(), Error> {
        check_id(&secret.id)?;
        secret.check().map_err(Error::generic)?;
        self.parts.disks.secrets().add(&secret).map_err(refused)
    }

    fn object_del(&mut self, ObjectId { id }: ObjectId) -> Result<(), Error> {
        self.parts.disks.secrets().remove(&id).map_err(refused)
    }

    fn block_resize(&mut self, resize: Resize) -> Result<(), Error> {
        let disks = &self.parts.disks;
        let node = resize.node_name.as_deref();
        match self.disk_of(resize.device.as_deref(), node) {
            Ok(disk) => disk.resize(resize.size),
            // A node that no device shows.
            Err(error) => match node.map(|name| disks.node(name).map(|node| node.disk)) {
                Some(Ok(Some(disk))) => disk.resize(resize.size),
                _ => return Err(error),
            },
        }
        .map_err(Error::generic)
    }

    fn set_io_throttle(&mut self, throttle: Throttle) -> Result<(), Error> {
        let split = [
            throttle.bps_rd,
            throttle.bps_wr,
            throttle.iops_rd,
            throttle.iops_wr,
        ];
        if split.iter().any(|limit| *limit != 0) {
            return Err(Error::generic(
                "the limits are bps and iops, of reads and writes together",
            ));
        }
        let id = throttle.id.as_deref().or(throttle.device.as_deref());
        self.disk_of(id, None)?.set_limits(Limits {
            iops: throttle.iops,
            bps: throttle.bps,
        });
        Ok(())
    }

    /// The disk with this name, or the one that shows this node.
    fn disk_of(&self, id: Option<&str>, node: Option<&str>) -> Result<BlockControl, Error> {
        let mut disks = self.parts.disks.list().into_iter();
        let disk = match (id, node) {
            (Some(id), None) => disks.find(|disk| disk.id == id),
            (None, Some(node)) => disks.find(|disk| disk.node.as_deref() == Some(node)),
            _ => return Err(Error::generic("name a device, or a node, and not both")),
        };
        let name = id.or(node).unwrap_or_default();
        let disk = disk.ok_or_else(|| Error::device_not_found(name))?;
        Ok(disk.control)
    }
}
