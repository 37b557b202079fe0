//! Devices that come and go: `device_add` and `device_del`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use strata_qmp::{Commands, Error};
use strata_rng::Rng;

use super::{Control, check_id, refused};
use crate::config::{DiskConfig, NetConfig, Options, from_table};

/// The arguments of a device: QEMU's, or the keys of `--disk` and `--net`.
type Arguments = Map<String, Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Id {
    id: String,
}

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands
        .with("device_add", Control::device_add)
        .with("device_del", Control::device_del)
}

/// The value of a text, which is taken out of the arguments.
pub(super) fn take_text(arguments: &mut Arguments, key: &str) -> Result<Option<String>, Error> {
    match arguments.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::generic(format_args!("'{key}' is a text"))),
    }
}

/// Gives a key that QEMU's clients use the name that it has in the configuration.
pub(super) fn rename(arguments: &mut Arguments, from: &str, to: &str) {
    if let Some(value) = arguments.remove(from) {
        arguments.insert(to.to_owned(), value);
    }
}

/// A device's configuration by the schema of the command line.
pub(super) fn config<T: Options>(arguments: Arguments) -> Result<T, Error> {
    from_table(arguments).map_err(Error::generic)
}

impl Control {
    fn device_add(&mut self, mut arguments: Arguments) -> Result<(), Error> {
        let driver = take_text(&mut arguments, "driver")?
            .ok_or_else(|| Error::generic("'driver' is missing"))?;
        let id = arguments.get("id").and_then(Value::as_str);
        let id = id.ok_or_else(|| Error::generic("'id' is missing: removal goes by it"))?;
        check_id(id)?;
        self.parts.pci.check_free(id).map_err(refused)?;
        if let Some(bus) = take_text(&mut arguments, "bus")?
            && !matches!(bus.as_str(), "pci.0" | "pcie.0")
        {
            return Err(Error::generic("the one bus is pcie.0"));
        }
        match driver.as_str() {
            "virtio-blk-pci" => self.add_disk(arguments),
            "virtio-net-pci" => self.add_net(arguments),
            "virtio-rng-pci" => self.add_rng(arguments),
            _ => Err(Error::generic(
                "the drivers are virtio-blk-pci, virtio-net-pci and virtio-rng-pci",
            )),
        }
    }

    /// With `drive`, a disk that shows a node; otherwise one of its own, as `--disk` makes it.
    fn add_disk(&mut self, mut arguments: Arguments) -> Result<(), Error> {
        rename(&mut arguments, "num-queues", "queues");
        let (disks, pci) = (&self.parts.disks, &self.parts.pci);
        let Some(name) = take_text(&mut arguments, "drive")? else {
            let config: DiskConfig = config(arguments)?;
            return disks.add(&config, pci).map_err(refused);
        };
        let node = disks.node(&name).map_err(refused)?;
        let image = ["path", "format", "readonly", "ro", "cache", "backing"];
        if let Some(key) = image.into_iter().find(|key| arguments.contains_key(*key)) {
            return Err(Error::generic(format_args!(
                "'{key}' is the node's, not the device's"
            )));
        }
        let Ok(Value::Object(mut table)) = serde_json::to_value(&node.config) else {
            return Err(Error::generic("the node's options have no text"));
        };
        table.extend(arguments);
        let config: DiskConfig = config(table)?;
        disks.add_on_node(&config, &name, pci).map_err(refused)
    }

    /// With `netdev`, a card on that host end; otherwise on one of its own, as `--net` makes it.
    fn add_net(&mut self, mut arguments: Arguments) -> Result<(), Error> {
        rename(&mut arguments, "host_mtu", "mtu");
        let netdev = take_text(&mut arguments, "netdev")?;
        if let Some(name) = &netdev {
            let host_end = self.netdev(name)?;
            if let Some(user) = self.netdev_user(name) {
                return Err(Error::generic(format_args!(
                    "the netdev {name} is in use by {user}"
                )));
            }
            let Ok(Value::Object(table)) = serde_json::to_value(host_end) else {
                return Err(Error::generic("the netdev's options have no text"));
            };
            for (key, value) in table {
                arguments.entry(key).or_insert(value);
            }
        }
        let config: NetConfig = config(arguments)?;
        let (nets, pci) = (&self.parts.nets, &self.parts.pci);
        nets.add(&config, netdev.as_deref(), pci).map_err(refused)
    }

    fn add_rng(&mut self, arguments: Arguments) -> Result<(), Error> {
        let Id { id } = Id::deserialize(Value::Object(arguments)).map_err(Error::generic)?;
        let rng = Rng::urandom()
            .map_err(|error| Error::generic(format_args!("/dev/urandom: {error}")))?;
        self.parts.pci.add(&id, Box::new(rng)).map_err(refused)
    }

    /// Asks the guest to let go of a device. When it is gone, DEVICE_DELETED says so.
    fn device_del(&mut self, Id { id }: Id) -> Result<Value, Error> {
        self.parts.pci.request_removal(&id).map_err(refused)?;
        Ok(json!({}))
    }
}
